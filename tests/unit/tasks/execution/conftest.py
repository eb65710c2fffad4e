"""The parts of a worker process, each one a fake but those that are cheap to have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from harness.fakes import FakeAnswerer, FakeBatches, FakeFiles, FakeJobs, FakePublisher, Heard

from tasks.drain import Drain
from tasks.execution.context import Context
from tasks.records.outcomes import HandBack
from tasks.recovery.leases import Leases
from tasks.storage import Storage
from tasks.store.retrying import Retrying


class Worker:
    """A worker process without its surroundings. A test says how its tiers answer."""

    def __init__(self, folder: str) -> None:
        self.storage = Storage(folder)
        self.jobs, self.batches = FakeJobs(), FakeBatches()
        self.publisher = FakePublisher()
        self.answerer = FakeAnswerer(lambda _: HandBack())
        self.observer = Heard()
        self.drain = Drain()
        store: Any = SimpleNamespace(
            jobs=self.jobs, batches=self.batches, files=FakeFiles(self.storage)
        )
        self.leases = Leases(store, 8.0, ())
        parts: Any = {"publisher": self.publisher, "answerer": self.answerer}
        self.context = Context(
            store=store,
            leases=self.leases,
            drain=self.drain,
            retrying=Retrying(self.drain),
            observer=self.observer,
            **parts,
        )


@pytest.fixture
async def worker(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.store.retrying.BACKOFF_SECONDS", (0.0, 0.0))
    return Worker(str(tmp_path))
