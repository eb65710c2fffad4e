"""Who waits for a job is woken by its finish: one subscription for the process, no polling."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from tasks.records.jobs import JobRecord
    from tasks.store import Store

LOOK_SECONDS = 5.0  # the record is read so often while somebody waits: being woken is only faster
AGAIN_SECONDS = 0.5  # before a lost subscription is taken up again


class Waiters:
    """Futures by job id; belongs to one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._loop = asyncio.get_running_loop()
        self.closed = False

    def close_in(self, seconds: float) -> None:
        """Let everybody go after so long, as it is then; for a signal handler."""
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._close)

    def _close(self) -> None:
        self.closed = True
        for job_id in list(self._waiting):
            self._wake(job_id)

    async def wait(self, job_id: str, owner: str, seconds: float) -> JobRecord | None:
        """Return the job's record when it is final, or as it is after so long; None: unknown."""
        until = time.monotonic() + seconds
        while True:
            # Listed before the record is read: a finish in between is not missed.
            woken = self._enter(job_id)
            try:
                record = await self._read(job_id, owner, until)
                left = until - time.monotonic()
                if record is None or record.status.final or left <= 0 or self.closed:
                    return record
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken, min(left, LOOK_SECONDS))
            finally:
                self._leave(job_id, woken)

    async def _read(self, job_id: str, owner: str, until: float) -> JobRecord | None:
        """Read a record; who waits anyway waits for a store that is just restarting, too."""
        while True:
            try:
                return await self._store.jobs.get(job_id, owner)
            except StoreUnavailable:
                if time.monotonic() + AGAIN_SECONDS > until:
                    raise
            await asyncio.sleep(AGAIN_SECONDS)

    def _enter(self, job_id: str) -> asyncio.Future[None]:
        woken = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, set()).add(woken)
        return woken

    def _leave(self, job_id: str, woken: asyncio.Future[None]) -> None:
        futures = self._waiting.get(job_id)
        if futures is not None:
            futures.discard(woken)
            if not futures:
                del self._waiting[job_id]

    def _wake(self, job_id: str) -> None:
        for woken in self._waiting.get(job_id, ()):
            if not woken.done():
                woken.set_result(None)

    async def listen(self) -> None:
        """Wake the waiters of every job that finishes; run until cancelled."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                async for event in self._store.connection.events("finished"):
                    if event:
                        self._wake(event[1])
                    else:  # what happened before we listened (again): let everybody look
                        for job_id in list(self._waiting):
                            self._wake(job_id)
            await asyncio.sleep(AGAIN_SECONDS)
