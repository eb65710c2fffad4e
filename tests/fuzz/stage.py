"""The processes that are fuzzed, as a user has them: a store, an API, a worker, two models."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.processes import Fleet, Process
from harness.upstream import Upstream, completion
from harness.valkey import ValkeyServer
from harness.waiting import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT_SECONDS = 1.0  # that a slow client has
CHAT_SECONDS = 5.0  # the longest that a chat may take: its deadline


@dataclass
class Stage:
    """A fleet that runs. models: the upstreams of its tiers."""

    api: Process
    worker: Process
    models: tuple[Upstream, Upstream]

    def pid(self) -> int:
        """Return the API's."""
        assert self.api.process is not None
        return self.api.process.pid

    def memory_mib(self) -> float:
        """Return what is resident of the API."""
        pages = int(Path(f"/proc/{self.pid()}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    def open_files(self) -> int:
        """Return how many descriptors the API has."""
        return len(list(Path(f"/proc/{self.pid()}/fd").iterdir()))

    def tracebacks(self) -> list[str]:
        """Return the lines of the logs that tell of a defect."""
        lines = (self.api.log + self.worker.log).splitlines()
        return [line[-2000:] for line in lines if "Traceback" in line]


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Yield a fleet in a folder; its models answer at once, whatever they are asked."""
    valkey = ValkeyServer(folder, free_port())
    models = (Upstream("gpu-model"), Upstream("cpu-model"))
    for model in models:
        model.calls = _Forgetful()
        model._completion = lambda call: completion("Hello")
    settings = {
        "FALLTHROUGH_REDIS_URL": valkey.url,
        "FALLTHROUGH_GPU_URL": models[0].url,
        "FALLTHROUGH_CPU_URL": models[1].url,
        "FALLTHROUGH_FILES_URL": str(folder / "files"),
        "FALLTHROUGH_CHAT_DEADLINE_SECONDS": str(CHAT_SECONDS),
        "FALLTHROUGH_JOB_DEADLINE_SECONDS": "30",
        "FALLTHROUGH_CLIENT_SECONDS": str(CLIENT_SECONDS),
        "FALLTHROUGH_SWEEP_SECONDS": "0.25",
        "FALLTHROUGH_BREAKER_RECOVERY_SECONDS": "1",
        "FALLTHROUGH_CPU_CONCURRENCY": "8",
    }
    fleet = Fleet(folder, settings)
    try:
        valkey.start()
        api, worker = fleet.start(fleet.api(), fleet.worker())
        yield Stage(api, worker, models)
    finally:
        fleet.stop()
        valkey.kill()
        for model in models:
            model.close()


class _Forgetful(list):  # type: ignore[type-arg]
    """The calls of a model that is asked a hundred thousand times."""

    def append(self, _: object) -> None:
        pass
