"""Who waits for a job is woken by its finish, and who follows its answer is told what it says.

One subscription for the process, no polling.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING

from tasks.errors import StoreUnavailable
from tasks.records.jobs import new_token
from tasks.records.streams import Entry
from tasks.store import keyspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tasks.records.jobs import JobRecord
    from tasks.store import Store

    Woken = asyncio.Future[JobRecord | None]

LOOK_SECONDS = 5.0  # the record is read so often while somebody waits: being woken is only faster
# What a follower who does not take it has at most, about: entries, and bytes of them.
MOST_WAITING, LARGEST_WAITING = 256, 256 * 1024
AGAIN_SECONDS = 0.5  # before a lost subscription is taken up again


class Inbox:
    """What a follower was told and has not taken yet: so much, then he reads the log again."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._came = asyncio.Event()

    def put(self, content: bytes) -> None:
        """Add an entry; too many are none."""
        self._bytes += len(content)
        if len(self._waiting) >= MOST_WAITING or self._bytes > LARGEST_WAITING:
            self._waiting.clear()
            self._bytes = len(content)
        self._waiting.append(content)
        self._came.set()

    def take(self) -> Entry | None:
        """Return the next entry; None: there is none."""
        if not self._waiting:
            return None
        content = self._waiting.popleft()
        self._bytes -= len(content)
        return Entry.of(content)

    async def wait(self, ended: Woken, seconds: float) -> None:
        """Return once there is an entry, or the job has ended, or after so long."""
        self._came.clear()
        if self._waiting or ended.done():
            return
        # Not asyncio.timeout: of what a word costs here it was a fifth.
        timer = asyncio.get_running_loop().call_later(seconds, self._came.set)
        ended.add_done_callback(self._wake)
        try:
            await self._came.wait()
        finally:
            timer.cancel()
            ended.remove_done_callback(self._wake)

    def _wake(self, _: object) -> None:
        self._came.set()


class Waiters:
    """Futures by job id; belongs to one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, set[Woken]] = {}
        self.name = new_token()  # by which workers know whom to tell an answer
        self._answers = keyspace.answers(self.name)
        self._heard = store.connection.subscription("finished", self._answers)
        self._followers: dict[str, set[Inbox]] = {}
        self._loop = asyncio.get_running_loop()
        self.closed = False

    def close_in(self, seconds: float) -> None:
        """Let everybody go after so long, as it is then; for a signal handler."""
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._close)

    def _close(self) -> None:
        self.closed = True
        for job_id in list(self._waiting):
            self._wake(job_id)

    async def wait(
        self,
        job_id: str,
        owner: str,
        seconds: float,
        entered: Woken | None = None,
    ) -> JobRecord | None:
        """Return the job's record when it is final, or as it is after so long; None: unknown.

        entered: of waiting_for(), from before the job was submitted: its record is read when it
        has ended, and not at once as well. If its worker was told who waits, it is not read at all.
        """
        until = time.monotonic() + seconds
        if (
            entered is not None
            and not self.closed
            and (told := await self._sleep(entered, seconds))
        ):
            return told
        while True:
            # Listed before the record is read: a finish in between is not missed.
            woken = self.enter(job_id)
            try:
                record = await self._read(job_id, owner, until)
                left = until - time.monotonic()
                if record is None or record.status.final or left <= 0 or self.closed:
                    return record
                told = await self._sleep(woken, left)
                if told is not None and entered is not None:
                    return told
            finally:
                self.leave(job_id, woken)

    async def _sleep(self, woken: Woken, seconds: float) -> JobRecord | None:
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(woken, min(seconds, LOOK_SECONDS))
        return None

    @contextlib.contextmanager
    def waiting_for(self, job_id: str) -> Iterator[Woken]:
        """Give a future that is done once a job is final, or there is a reason to look."""
        woken = self.enter(job_id)
        try:
            yield woken
        finally:
            self.leave(job_id, woken)

    async def _read(self, job_id: str, owner: str, until: float) -> JobRecord | None:
        """Read a record; who waits anyway waits for a store that is just restarting, too."""
        while True:
            try:
                return await self._store.jobs.get(job_id, owner)
            except StoreUnavailable:
                if time.monotonic() + AGAIN_SECONDS > until:
                    raise
            await asyncio.sleep(AGAIN_SECONDS)

    def enter(self, job_id: str) -> Woken:
        """Return a future that is done once a job is final, or there is a reason to look.

        Its result is of the job's record what its waiter was told; None: it is to be read.
        """
        woken: Woken = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, set()).add(woken)
        return woken

    def leave(self, job_id: str, woken: Woken) -> None:
        """Wait no longer."""
        futures = self._waiting.get(job_id)
        if futures is not None:
            futures.discard(woken)
            if not futures:
                del self._waiting[job_id]

    def _wake(self, job_id: str, told: JobRecord | None = None) -> None:
        for woken in self._waiting.get(job_id, ()):
            if not woken.done():
                woken.set_result(told)

    @contextlib.asynccontextmanager
    async def hear(self, job_id: str) -> AsyncIterator[Inbox]:
        """Give what is written to the log of a job's stream from now on."""
        inbox = Inbox()
        name = keyspace.stream(job_id)
        self._followers.setdefault(name, set()).add(inbox)
        try:
            await self._heard.add(name)
            yield inbox
        finally:
            others = self._followers[name]
            others.discard(inbox)
            if not others:
                del self._followers[name]
                await self._heard.drop(name)

    async def listen(self) -> None:
        """Wake the waiters of every job that finishes; run until cancelled."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                async for event in self._heard.messages():
                    if event is None:  # what happened before we listened (again): all look
                        for job_id in list(self._waiting):
                            self._wake(job_id)
                    elif event[0] == "finished":
                        self._wake(event[1].decode())
                    elif event[0] == self._answers:
                        if told := self._store.jobs.told(event[1]):
                            self._wake(told.id, told)
                    else:
                        self._tell(*event)
            await asyncio.sleep(AGAIN_SECONDS)

    def _tell(self, name: str, content: bytes) -> None:
        for inbox in self._followers.get(name, ()):
            inbox.put(content)
