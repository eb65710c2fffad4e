"""Callers who went away before their answer came: they may come back for it, or nobody wants it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from starlette.requests import ClientDisconnect

from tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from starlette.requests import Request

    from tasks.records.idempotency import IdempotencyKey
    from tasks.store import Store

R = TypeVar("R")

BACK_SECONDS = 10.0  # in which a client that retries by itself has come back


async def unless_gone(request: Request, work: Coroutine[Any, Any, R]) -> R:
    """Return what work comes to; raises ClientDisconnect once the client has gone away."""
    working = asyncio.create_task(work)
    disconnect = asyncio.create_task(_await_disconnect(request))
    try:
        await asyncio.wait({working, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        disconnect.cancel()


async def _await_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Caller(NamedTuple):
    """Who waits for a job, and the keys by which he may ask for it again."""

    job_id: str
    owner: str
    keys: Sequence[IdempotencyKey]

    @property
    def unchosen(self) -> list[IdempotencyKey]:
        """Those that he leaves behind; one that he chose lies there already."""
        return [key for key in self.keys if not key.own]


class Callers:
    """Cancels what nobody waits for any more; belongs to one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._leaving: set[asyncio.Task[None]] = set()

    def leave(self, caller: Caller) -> None:
        """Say that a caller has gone away; what he asked goes on for a while, if he may retry."""
        leaving = asyncio.create_task(self._leave(caller))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, caller: Caller) -> None:
        jobs = self._store.jobs
        with contextlib.suppress(StoreUnavailable):  # then its deadline ends it
            if not await jobs.leave(caller.job_id, caller.owner, caller.unchosen):
                return
            if caller.keys:
                await asyncio.sleep(BACK_SECONDS)
            await jobs.cancel(caller.job_id, caller.owner, unless_told=True)

    async def stop(self) -> None:
        """Wait for nobody any more: what was asked goes on to its end."""
        for leaving in self._leaving:
            leaving.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
