"""pytest-celery's nodes as processes: the same fixtures, no container engine."""

from __future__ import annotations

import signal as signals
from typing import TYPE_CHECKING, Any

from pytest_celery import CeleryTestContainer

if TYPE_CHECKING:
    from harness.processes import Process
    from harness.valkey import ValkeyServer


class ProcessNode(CeleryTestContainer):
    """What pytest-celery asks of a container, answered by a process of ours."""

    def __init__(self, name: str, process: Process | ValkeyServer, config: dict[str, str]) -> None:
        # Deliberately no super().__init__(): it would look for a Docker engine.
        self._node_name, self._process, self._config = name, process, config

    @property
    def name(self) -> str:
        return self._node_name

    @property
    def id(self) -> str:
        return f"{self._node_name:12}"

    @property
    def celeryconfig(self) -> dict[str, str]:
        return self._config

    @property
    def status(self) -> str:
        running = self._process.process
        return "running" if running is not None and running.poll() is None else "exited"

    def logs(self) -> str:
        return str(getattr(self._process, "log", ""))

    def ready(self) -> bool:
        return self.status == "running"

    def reload(self) -> None:
        """There is nothing cached."""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        running = self._process.process
        assert running is not None
        running.send_signal(signals.Signals[signal] if isinstance(signal, str) else signal)
        running.wait(30)

    def restart(self, **_: Any) -> None:
        if self.status == "running":
            self.kill("SIGTERM")
        self._process.start()

    def teardown(self) -> None:
        if self.status == "running":
            self.kill("SIGTERM")
