"""Callers who went away before their answer came: they may come back for it, or nobody wants it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from starlette.requests import ClientDisconnect

from tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from starlette.types import Receive

    from tasks.records.idempotency import IdempotencyKey
    from tasks.store import Store

R = TypeVar("R")

BACK_SECONDS = 10.0  # in which who has a key of his own comes back, if he does


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, R]) -> R:
    """Return what work comes to; raises ClientDisconnect once the client has gone away.

    receive: of a request whose body was read. Nothing of the work runs on afterwards.
    """
    working = asyncio.create_task(work)
    disconnect = asyncio.create_task(_await_disconnect(receive))
    try:
        await asyncio.wait({working, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        disconnect.cancel()
        await asyncio.gather(working, disconnect, return_exceptions=True)


async def _await_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Caller(NamedTuple):
    """Who waits for a job, the keys by which he may ask for it again, and how soon he does (s)."""

    job_id: str
    owner: str
    keys: Sequence[IdempotencyKey]
    back_seconds: float = BACK_SECONDS

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
                await asyncio.sleep(caller.back_seconds)
            await jobs.cancel(caller.job_id, caller.owner, unless_told=True)

    async def stop(self) -> None:
        """Wait for nobody any more: what was asked goes on to its end."""
        for leaving in self._leaving:
            leaving.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
