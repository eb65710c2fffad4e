"""A job's answer as it comes, for whoever follows it, from any place of it and in any API process.

What is heard is fast, never right: whoever is told of an entry whose chunks do not follow on those
that he has, or of nothing for a while, reads the log.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from api.errors import ApiError
from api.waiters import AGAIN_SECONDS, LOOK_SECONDS
from fallback_chain import UnshowableError, chunks_of
from tasks.errors import StoreUnavailable
from tasks.records.jobs import JobRecord, Status
from tasks.records.streams import Entry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from api.waiters import Inbox, Waiters, Woken
    from tasks.records.streams import Log
    from tasks.store import Store

PATIENCE_SECONDS = 60.0  # that a follower waits for a store which does not answer


async def follow(
    store: Store, waiters: Waiters, job_id: str, owner: str, after: int = 0
) -> AsyncGenerator[Entry | JobRecord | None]:
    """Yield what a job's answer says after so many chunks of it, and at last how the job ended.

    An Entry: chunks that were not seen yet; the first one has the answer's head. A JobRecord: as
    the job is now, or was when the store last answered, every few seconds; the last thing if it is
    final. None: the job is not known (any more), and that is all.
    """
    place = _Place(after)
    async with waiters.hear(job_id) as inbox:
        while True:
            ended = waiters.enter(job_id)  # before the log is read: an end in between is not missed
            try:
                record, entries = await _read(store, job_id, owner, place)
                if record is None:
                    yield None
                    return
                for entry in entries:
                    yield place.move(entry)
                    if entry.ends:
                        return
                if entries:
                    continue
                # Not as it is afterwards: whoever was told this before we stop is told once more.
                closed = waiters.closed
                yield record
                if record.status.final or closed:
                    return
                async for entry in _heard(inbox, ended, place):
                    yield place.move(entry)
                    if entry.ends:
                        return
            finally:
                waiters.leave(job_id, ended)


async def _read(
    store: Store, job_id: str, owner: str, place: _Place
) -> tuple[JobRecord | None, Sequence[Entry]]:
    """Read a job, and then what its log says: of one that is final, all that it ever will.

    While the store does not answer: the job as it was, and nothing.
    """
    while True:
        try:
            return await _read_now(store, job_id, owner, place)
        except StoreUnavailable:
            if time.monotonic() >= place.until:
                raise
            if place.record is not None:
                return place.record, ()
            await asyncio.sleep(AGAIN_SECONDS)


async def _read_now(
    store: Store, job_id: str, owner: str, place: _Place
) -> tuple[JobRecord | None, Sequence[Entry]]:
    record = await store.jobs.look(job_id, owner)
    if record is None:
        return None, ()
    log = await store.streams.read(job_id, place.after)
    place.look(record, log)
    if log and (log.entries or record.status is not Status.SUCCEEDED):
        return record, log.entries
    if record.status is not Status.SUCCEEDED:
        return record, ()
    if log or (whole := await store.jobs.get(job_id, owner)) is None:
        return record, [Entry(place.after, (), ends=True)]
    return record, [_rest(whole, place.after)]


class _Place:
    """How far a follower is in an answer, and in which one.

    A job whose store lost its last second may be answered anew, in other words: whoever has seen
    the first ones must not be told how the second ones go on.
    """

    def __init__(self, after: int) -> None:
        self.after = after  # chunks that he has
        self.until = time.monotonic() + PATIENCE_SECONDS  # a store that is away is waited for
        self.record: JobRecord | None = None  # as it was when the store last answered
        self._run = ""  # of the entries of his answer, once they are known
        self._first: Entry | None = None  # of them, until he was told its head

    def look(self, record: JobRecord, log: Log | None) -> None:
        """Take his job, and the log of his answer; raises ApiError if it is another answer's."""
        self.record, self.until = record, time.monotonic() + PATIENCE_SECONDS
        lost = log.first.run != self._run if log else not record.status.final
        if self._run and lost:
            message = "the answer broke off: the store lost a part of it"
            raise ApiError(502, message, code="upstream_interrupted")
        if log and not self._run:
            self._run, self._first = log.first.run, log.first

    def is_before(self, entry: Entry) -> bool:
        """Whether an entry goes on here, or has been seen; else the log is to be read."""
        known = entry.run == self._run if self._run else bool(entry.head)
        return known and entry.first <= self.after

    def move(self, entry: Entry) -> Entry:
        """Go to the end of an entry; return what it has of what was not seen."""
        seen = max(self.after - entry.first, 0)
        self.after = entry.upto
        if self._first and not entry.head:
            entry = entry._replace(head=self._first.head, tier=self._first.tier)
        self._run, self._first = entry.run, None
        usage = entry.usage if seen <= len(entry.choices) else b""
        return entry._replace(choices=entry.choices[seen:], usage=usage)


def _rest(record: JobRecord, after: int) -> Entry:
    """Return what an answer that is whole, and has no log (any more), says after so many chunks."""
    nothing = Entry(after, (), ends=True)
    if record.answer is None:
        return nothing
    if record.streamed and after:  # by other numbers than those that he knows
        message = (
            f"the stream is not kept any longer: GET /v1/jobs/{record.id} has the whole answer; "
            "without starting_after it is told from its beginning"
        )
        raise ApiError(410, message, code="stream_gone")
    try:
        chunks = chunks_of(bytes(record.answer))
    except UnshowableError:  # kept by a release that did not look
        message = "the answer that was kept cannot be read"
        raise ApiError(500, message, code="unreadable_answer") from None
    tier = record.tier_used or ""
    entry = Entry(len(chunks.choices), chunks.choices, chunks.head, tier, ends=True)
    return entry if after < entry.upto else nothing


async def _heard(inbox: Inbox, ended: Woken, place: _Place) -> AsyncIterator[Entry]:
    """Yield entries as they are written; ends where the log is to be read."""
    while True:
        entry = inbox.take()
        if entry is None:
            await inbox.wait(ended, LOOK_SECONDS)
            entry = inbox.take()
        if entry is None or not place.is_before(entry):
            return
        if entry.upto > place.after:
            yield entry
