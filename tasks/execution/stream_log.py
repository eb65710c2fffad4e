"""What the streams of a process say goes to the store, of all of them together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from fallback_chain import Chunks, chunks_of, head_of
from tasks.errors import StoreUnavailable
from tasks.records.jobs import Status, new_token
from tasks.records.streams import Addition, Entry
from tasks.store.streams import Append

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tasks.records.jobs import BegunJob
    from tasks.records.outcomes import Finish
    from tasks.store import Store
    from tasks.store.retrying import Retrying

LINGER_SECONDS = 0.02  # between two writes; the first word of an answer waits for nothing

log = logging.getLogger(__name__)


class StreamLogs:
    """One write at a time for all streams of a process; belongs to one event loop."""

    def __init__(self, store: Store, retrying: Retrying) -> None:
        self._store, self._retrying = store, retrying
        self._written: dict[StreamLog, None] = {}  # those that have something for the store
        self._begun: dict[StreamLog, None] = {}  # those that have their first word for it
        self._writing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._wrote = 0.0  # when the last write of more than first words began

    def open(self, job: BegunJob) -> StreamLog:
        """Return the log of a job that this process has begun."""
        return StreamLog(job, self)

    def wrote(self, stream: StreamLog, *, hurry: bool) -> None:
        """Have what a stream wrote go to the store, at once or in a moment."""
        if hurry:
            self._begun[stream] = None
            self._hurry.set()
        elif stream not in self._begun:
            self._written[stream] = None
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())

    def forget(self, stream: StreamLog) -> None:
        """Leave what a stream has for the store to whoever ends it."""
        self._written.pop(stream, None)
        self._begun.pop(stream, None)

    async def _write_all(self) -> None:
        """Write what there is to write: first words by themselves, until the others are due."""
        try:
            while self._begun or self._written:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._wrote + LINGER_SECONDS - time.monotonic()):
                        await self._hurry.wait()
                self._hurry.clear()
                streams = list(self._begun)
                self._begun.clear()
                if time.monotonic() >= self._wrote + LINGER_SECONDS:
                    self._wrote = time.monotonic()
                    streams += self._written
                    self._written.clear()
                await self._write(streams)
        finally:
            self._writing = None

    async def _write(self, streams: Sequence[StreamLog]) -> None:
        if not streams:
            return
        appends = [stream.take() for stream in streams]
        there: Sequence[bool | None] = [False] * len(streams)
        try:
            there = await self._retrying(self._store.streams.append, appends)
        except StoreUnavailable as error:  # at the end of the drain
            log.warning("streams break off: %s", error)
        except Exception:
            log.exception("streams broke off")
        finally:
            for stream, is_there in zip(streams, there, strict=True):
                stream.taken(is_there=bool(is_there))


class StreamLog:
    """The log of one job's answer: a fallback_chain.streams.Sink.

    until: its deadline. lost: the store does not have, or does not take, what was written.
    """

    def __init__(self, job: BegunJob, logs: StreamLogs) -> None:
        self.until = job.deadline
        self.committed = self.lost = False
        self._job, self._logs, self._run = job, logs, new_token()
        self._tier, self._head = "", b""  # until the first entry has them
        self._count = 0  # chunks that are in the store, or on their way
        self._waiting: list[bytes] = []
        self._idle = asyncio.Event()  # nothing is on its way
        self._idle.set()
        self._at_loss: Callable[[], object] | None = None

    def at_loss(self, tell: Callable[[], object]) -> None:
        """Have somebody told once it is lost: nobody will see how the answer goes on."""
        self._at_loss = tell

    def write(self, tier: str, head: Mapping[str, Any], choices: Sequence[bytes]) -> None:
        """Take chunks of an answer. head: what all of them have."""
        first = not self.committed
        if first:
            self.committed = True
            self._tier, self._head = tier, head_of(head, usage=self._job.options.usage)
        self._waiting += choices
        if not self.lost:
            self._logs.wrote(self, hurry=first)

    def take(self) -> Append:
        """Return what is to be written now."""
        self._idle.clear()
        return Append(self._job.id, self._job.lease_owner, self._addition(self._taken()))

    def taken(self, *, is_there: bool) -> None:
        """Note what became of that."""
        self.lost |= not is_there
        self._idle.set()
        if self.lost and self._at_loss:
            self._at_loss()

    def _taken(self) -> Chunks:
        chunks, self._waiting = Chunks(self._head, self._waiting), []
        return chunks

    def _addition(self, chunks: Chunks, *, ends: bool = False) -> Addition:
        before = self._count
        self._count += len(chunks.choices) + bool(chunks.usage)
        head, tier = (chunks.head, self._tier) if not before else (b"", "")
        entry = Entry(self._count, chunks.choices, head, tier, chunks.usage, ends, self._run)
        return Addition(before, entry)

    async def last(self, finish: Finish) -> Addition | None:
        """Return what ends the log with its job; None: nothing does."""
        self._logs.forget(self)
        await self._idle.wait()
        if finish.status is not Status.SUCCEEDED or finish.answer is None:
            return self._addition(self._taken()) if self._waiting and not self.lost else None
        if not self.committed:
            self._tier = finish.tier_used
            chunks = chunks_of(finish.answer, usage=self._job.options.usage)
            return self._addition(chunks, ends=True)
        waiting, rest = self._taken(), finish.rest or Chunks(b"", ())
        usage = rest.usage if self._job.options.usage else b""
        whole = Chunks(waiting.head, [*waiting.choices, *rest.choices], usage)
        return self._addition(whole, ends=True)
