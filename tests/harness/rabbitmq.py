"""A real RabbitMQ, from Debian's package, with ports, a name and folders of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from harness.waiting import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

INSTALLED = Path("/usr/lib/rabbitmq/lib")
# Few schedulers, which sleep when they have nothing to do: tests share two cores with it.
ERLANG = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"


def program() -> Path:
    """Return the server's script; Debian's wrapper insists on a user and folders of its own."""
    found = sorted(INSTALLED.glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    if not found:
        pytest.fail(f"{INSTALLED} is missing: `./run test services` installs it and runs these")
    return found[-1]


@dataclass
class RabbitServer:
    """A broker and its management API; what is durable survives a kill and a restart."""

    folder: Path
    settings: str = ""  # arguments for Erlang, as "-rabbit consumer_timeout 2000"
    environ: dict[str, str] = field(default_factory=dict)  # besides this process's own
    port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    names_port: int = field(default_factory=free_port)  # of the names' server, epmd
    nodes_port: int = field(default_factory=free_port)
    _names: subprocess.Popen[bytes] | None = None
    _server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_of("/")

    @property
    def api_url(self) -> str:
        return f"http://guest:guest@127.0.0.1:{self.api_port}/api/"

    def start(self) -> None:
        """Start it (again) and wait until it serves."""
        environ = self._environ()
        if self._names is None:
            # By itself the server would leave this one running for ever.
            command = ["epmd", "-port", str(self.names_port), "-address", "127.0.0.1"]
            self._names = subprocess.Popen(command, env=environ)
        with (self.folder / "output.log").open("ab") as output:
            self._server = subprocess.Popen(
                [str(program())],
                env=environ,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_until(self._serves, 60, f"rabbitmq serves: {self.folder}")

    def _environ(self) -> dict[str, str]:
        config, plugins = self.folder / "rabbitmq.conf", self.folder / "enabled_plugins"
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "management.tcp.ip = 127.0.0.1",
            f"management.tcp.port = {self.api_port}",
            "collect_statistics_interval = 500",
            "log.file.level = warning",
        ]
        config.write_text("\n".join([*lines, ""]))
        plugins.write_text("[rabbitmq_management].\n")
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RABBITMQ_")}
        return {
            **clean,
            **self.environ,
            "HOME": str(self.folder),  # where the nodes' cookie lies
            "ERL_EPMD_PORT": str(self.names_port),
            "RABBITMQ_NODENAME": f"test-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self.nodes_port),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "generated"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{ERLANG} {self.settings}",
        }

    def control(self, *arguments: str) -> None:
        """Run rabbitmqctl."""
        subprocess.run(
            [str(program().with_name("rabbitmqctl")), *arguments],
            env=self._environ(),
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )

    def _serves(self) -> bool:
        assert self._server is not None
        if self._server.poll() is not None:
            pytest.fail((self.folder / "output.log").read_text(errors="replace"))
        try:
            answer = self.ask("GET", f"health/checks/port-listener/{self.port}")
            return bool(answer["status"] == "ok")
        except (OSError, HTTPException, AssertionError):
            return False

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """Return what the management API answers; fail unless it is a success."""
        connection = HTTPConnection("127.0.0.1", self.api_port, timeout=5)
        token = b64encode(b"guest:guest").decode()
        headers = {"authorization": f"Basic {token}", "content-type": "application/json"}
        try:
            body = None if content is None else json.dumps(content)
            connection.request(method, f"/api/{path}", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status < 300, (answer.status, text)
            return json.loads(text) if text else None
        finally:
            connection.close()

    def close_connections(self) -> int:
        """Close every connection, as an operator may; return how many there were."""
        names = [quote(each["name"], safe="") for each in self.ask("GET", "connections")]
        closed = 0
        for name in names:
            try:
                self.ask("DELETE", f"connections/{name}")
                closed += 1
            except AssertionError:  # it was gone already
                pass
        return closed

    def add_vhost(self, name: str) -> str:
        """Make a virtual host with nothing in it; return its URL."""
        self.ask("PUT", f"vhosts/{name}")
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        self.ask("PUT", f"permissions/{name}/guest", rights)
        return self.url_of(name)

    def url_of(self, vhost: str) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{vhost}"

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Hold it as it is: what it listens to is taken, and nothing answered."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        if self._server is not None:
            self._signal(signal.SIGKILL)
            self._server.wait(10)
            self._server = None

    def close(self) -> None:
        """End it and its names' server."""
        self.kill()
        if self._names is not None:
            self._names.kill()
            self._names.wait(10)

    def _signal(self, number: signal.Signals) -> None:
        assert self._server is not None
        os.killpg(self._server.pid, number)  # a script, the server, its helpers
