"""Group commit: what is submitted while a commit is under way shares the next one.

Without a linger there is no timer: an idle group commits at once, a busy one takes as many along as
came in the time that the commit before took.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

A = TypeVar("A")
R = TypeVar("R")


class Linger(NamedTuple):
    """How long an item waits for others to be committed with it, or for how many."""

    seconds: float
    enough: int


class GroupCommit(Generic[A, R]):
    """One commit at a time; belongs to one event loop."""

    def __init__(
        self,
        commit: Callable[[list[A]], Awaitable[Sequence[R | Exception]]],
        largest: int,
        linger: Linger | None = None,
    ) -> None:
        """commit: does up to `largest` items; returns (in their order) results or errors."""
        self._commit, self._largest, self._linger = commit, largest, linger
        # Each with who waits for it, if anybody does.
        self._waiting: deque[tuple[A, asyncio.Future[R] | None]] = deque()
        self._failure: Exception | None = None  # of what nobody waited for
        self._committing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()  # who lingers is to go on

    def put(self, item: A) -> asyncio.Future[R]:
        """Have an item take part in the next commit; the future tells what that came to."""
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._add(item, result)
        return result

    def post(self, item: A) -> None:
        """Have an item take part in the next commit; flush() tells if that failed."""
        self._add(item, None)

    def _add(self, item: A, result: asyncio.Future[R] | None) -> None:
        self._waiting.append((item, result))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all())
        elif self._linger and len(self._waiting) >= self._linger.enough:
            self._hurry.set()

    async def submit(self, item: A) -> R:
        """Take part in the next commit; raise the error that it came to."""
        return await self.put(item)

    async def flush(self) -> None:
        """Commit what waits, without lingering any more; return when nothing waits.

        Raises what a commit of posted items came to.
        """
        self._linger = None
        self._hurry.set()
        if self._committing is not None:
            await asyncio.shield(self._committing)
        if self._failure is not None:
            raise self._failure

    def cancel(self) -> None:
        """Commit nothing of what waits, and let nobody wait for it."""
        while self._waiting:
            _, result = self._waiting.popleft()
            if result is not None:
                result.cancel()
        if self._committing is not None:
            self._committing.cancel()

    def reject_waiting(self, error: Exception) -> None:
        """Let those that wait for the next commit fail with this error."""
        while self._waiting:
            _, result = self._waiting.popleft()
            if result is not None and not result.done():
                result.set_exception(error)

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                size = min(len(self._waiting), self._largest)
                group = (self._waiting.popleft() for _ in range(size))
                # What its submitter went away from while it waited must not be done any more.
                await self._commit_group([each for each in group if not _is_done(each[1])])
        finally:
            self._committing = None

    async def _gather(self) -> None:
        if self._linger is None or len(self._waiting) >= self._linger.enough:
            return
        self._hurry.clear()
        # Not wait_for: Python 3.11's forgets a cancel that comes in the moment that it ends.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._linger.seconds):
                await self._hurry.wait()

    async def _commit_group(self, group: list[tuple[A, asyncio.Future[R] | None]]) -> None:
        if not group:
            return
        try:
            answers = await self._commit([item for item, _ in group])
        except Exception as error:  # noqa: BLE001 - every submitter is told, whatever it was
            answers = [error] * len(group)
        for (_, result), answer in zip(group, answers, strict=True):
            if result is None:
                self._failure = answer if isinstance(answer, Exception) else self._failure
            elif result.done():
                continue
            elif isinstance(answer, Exception):
                result.set_exception(answer)
            else:
                result.set_result(answer)


def _is_done(result: asyncio.Future[R] | None) -> bool:
    return result is not None and result.done()
