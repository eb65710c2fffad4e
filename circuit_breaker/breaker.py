"""The breaker that callers hold: a local view in front of a store."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from circuit_breaker.config import CircuitBreakerConfig
from circuit_breaker.errors import CircuitBreakerError, StoreError
from circuit_breaker.events import (
    CallRecorded,
    CallRejected,
    Event,
    Held,
    LateResult,
    StateChanged,
    StoreUnavailable,
)
from circuit_breaker.machine import (
    BreakerView,
    CircuitState,
    Outcome,
    Permit,
    Refusal,
    Rules,
)
from circuit_breaker.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from circuit_breaker.stores import Answer, Decision, Store

    Step = Callable[[Store], Answer | Awaitable[Answer]]

VIEW_SECONDS = 1.0  # how old a view may be that lets calls through, or refuses them, unasked
SHARED_RECORD_SECONDS = 0.02  # how long a success waits for others to be recorded with it
STORE_RETRY_SECONDS = 1.0  # how long a store that failed is left alone


class CircuitBreaker:
    """Guards calls to one service; any number of breakers of one name share a store's state.

    A closed breaker admits from a view at most a second old, which every record refreshes: one
    round trip a call. An open one refuses from its view, asking the store once a second at most.
    When the store is out of reach the breaker decides alone, from what it saw last; no storage
    error ever reaches a caller. The constructor does no I/O.
    """

    def __init__(
        self,
        name: str,
        config: CircuitBreakerConfig | None = None,
        store: Store | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.name = name
        self.config = config or CircuitBreakerConfig()
        self.store_errors = 0
        self._rules = Rules.of(self.config)
        self._store: Store = store or MemoryStore()
        # A store in this process can be looked at without asking.
        self._local = self._store if isinstance(self._store, MemoryStore) else None
        self._on_event = on_event
        self._lock = threading.Lock()
        self._view: BreakerView | None = None
        self._seen_at = 0.0
        self._alone: MemoryStore | None = None
        self._alone_until = 0.0
        self._permit: tuple[BreakerView, Permit] | None = None  # of the view that is closed
        self._succeeded = CallRecorded(name, Outcome.SUCCESS)
        self._unrecorded: Permit | None = None  # of a success that shares the next record
        self._recording = False  # a success is being recorded
        self._recording_rest: asyncio.Task[None] | None = None

    # Asking and reporting

    async def acquire(self) -> Permit | Refusal:
        """Ask to make a call. A Permit must be given back through record()."""
        known = self._known()
        return self._told(known or (await self._ask(self._acquire))[0])

    async def record(
        self, permit: Permit, outcome: Outcome, hold_seconds: float | None = None
    ) -> BreakerView:
        """Report what a call came to. hold_seconds: how long the server asked to be left alone."""
        if outcome is Outcome.SUCCESS and not permit.probe:
            return await self._record_success(permit)
        hold_ms = int((hold_seconds or 0.0) * 1000)
        answer = await self._ask(self._record(permit, outcome, hold_ms))
        return self._recorded(outcome, answer)

    def _acquire(self, store: Store) -> Answer | Awaitable[Answer]:
        return store.acquire(self.name, self._rules)

    def _record(self, permit: Permit, outcome: Outcome, hold_ms: int = 0) -> Step:
        return lambda store: store.record(self.name, permit, outcome, hold_ms, self._rules)

    def _look(self, store: Store) -> Answer | Awaitable[Answer]:
        return store.view(self.name)

    def _reset(self, store: Store) -> Answer | Awaitable[Answer]:
        return store.reset(self.name)

    async def _record_success(self, permit: Permit) -> BreakerView:
        """Record a success; those that come while one is being recorded share the next record.

        Two successes in a row say no more than one.
        """
        if self._recording and self._view is not None:
            self._unrecorded = permit
            self._tell(self._succeeded)
            return self._view
        self._recording = True
        try:
            answer = await self._ask(self._record(permit, Outcome.SUCCESS))
        finally:
            self._recording = self._unrecorded is not None
            if self._recording:
                self._recording_rest = asyncio.create_task(self._record_rest())
        return self._recorded(Outcome.SUCCESS, answer)

    async def _record_rest(self) -> None:
        try:
            while self._unrecorded is not None:
                await asyncio.sleep(SHARED_RECORD_SECONDS)
                permit, self._unrecorded = self._unrecorded, None
                await self._ask(self._record(permit, Outcome.SUCCESS))
        finally:
            self._recording = False

    async def view(self) -> BreakerView:
        """Look at the shared state now."""
        return (await self._ask(self._look))[1]

    async def areset(self) -> BreakerView:
        """Close the breaker, for everybody who shares its state."""
        self._alone = None
        return (await self._ask(self._reset))[1]

    def refusal(self) -> Refusal | None:
        """Return what acquire() would refuse with, as far as is known here; no permit, no I/O."""
        if self._local:
            return _refusal(self._local.view(self.name)[1], age=0.0)
        view, age = self._view, time.monotonic() - self._seen_at
        fresh = view is not None and age <= VIEW_SECONDS and view.epoch
        return _refusal(view, age) if view is not None and fresh else None

    def reject(self) -> Refusal | None:
        """Refuse as acquire() would, as far as is known here, and count it; no permit, no I/O."""
        refusal = self.refusal()
        if refusal:
            self._tell(CallRejected(self.name, refusal.reason))
        return refusal

    @property
    def state(self) -> CircuitState:
        """The state as last seen here; with a memory store, as it is."""
        if self._local:
            return self._local.view(self.name)[1].state
        return self._view.state if self._view else CircuitState.CLOSED

    # Calls

    async def call(self, work: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Await work within the time limit; raises CircuitBreakerError if it is refused."""
        permit = await self.acquire()
        if isinstance(permit, Refusal):
            raise CircuitBreakerError(self.name, permit.reason, permit.retry_after_seconds)
        outcome = Outcome.IGNORED  # what a cancelled call says of the server
        try:
            async with asyncio.timeout(self.config.timeout_seconds):
                result = work(*args, **kwargs)
                if inspect.isawaitable(result):
                    result = await result
            outcome = Outcome.SUCCESS
        except Exception as error:
            outcome = self._outcome_of(error)
            raise
        finally:
            await asyncio.shield(self.record(permit, outcome))
        return result

    def call_sync(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call work from synchronous code; its time limit is its own."""
        permit = self._told(self._known() or self._ask_sync(self._acquire)[0])
        if isinstance(permit, Refusal):
            raise CircuitBreakerError(self.name, permit.reason, permit.retry_after_seconds)
        outcome = Outcome.IGNORED
        try:
            result = work(*args, **kwargs)
            outcome = Outcome.SUCCESS
        except Exception as error:
            outcome = self._outcome_of(error)
            raise
        finally:
            self._recorded(outcome, self._ask_sync(self._record(permit, outcome)))
        return result

    def reset(self) -> BreakerView:
        """Close the breaker from synchronous code; with an asynchronous store use areset()."""
        self._alone = None
        return self._ask_sync(self._reset)[1]

    def _outcome_of(self, error: Exception) -> Outcome:
        ignored = isinstance(error, self.config.ignored_exceptions)
        return Outcome.IGNORED if ignored else Outcome.FAILURE

    # The local view

    def _known(self) -> Permit | Refusal | None:
        """Decide from the local view, if it is fresh enough to decide."""
        view, age = self._view, time.monotonic() - self._seen_at
        if view is None or age > VIEW_SECONDS or not view.epoch:
            return None
        if self._local:
            return None  # asking costs nothing
        refusal = _refusal(view, age)
        if refusal:
            return refusal
        if view.state is CircuitState.CLOSED:
            # Only a probe's permit is leased, and needs a name of its own.
            if self._permit is None or self._permit[0] is not view:
                self._permit = view, Permit("", view.generation, view.epoch, probe=False)
            return self._permit[1]
        return None

    def _saw(self, view: BreakerView) -> None:
        with self._lock:
            before, self._view = self._view, view
            self._seen_at = time.monotonic()
        was = before.state if before else CircuitState.CLOSED
        if was is not view.state:
            self._tell(StateChanged(self.name, was, view.state))
        if view.held and not (before and before.held):
            self._tell(Held(self.name, view.hold_reason, view.retry_after_seconds))

    def _told(self, decision: Decision) -> Permit | Refusal:
        if isinstance(decision, bool):
            message = "a store answered acquire without a decision"
            raise TypeError(message)
        if isinstance(decision, Refusal):
            self._tell(CallRejected(self.name, decision.reason))
        return decision

    def _recorded(self, outcome: Outcome, answer: Answer) -> BreakerView:
        self._tell(CallRecorded(self.name, outcome))
        if not answer[0]:
            self._tell(LateResult(self.name))
        return answer[1]

    def _tell(self, event: Event) -> None:
        if self._on_event:
            self._on_event(event)

    # The store, and its stand-in

    async def _ask(self, step: Step) -> Answer:
        if self._alone and time.monotonic() < self._alone_until:
            return self._ask_alone(self._alone, step)
        try:
            answer: Any = step(self._store)
            if inspect.isawaitable(answer):
                answer = await answer
        except StoreError:
            return self._ask_alone(self._go_alone(), step)
        return self._answered(answer)

    def _ask_sync(self, step: Step) -> Answer:
        if self._alone and time.monotonic() < self._alone_until:
            return self._ask_alone(self._alone, step)
        try:
            answer: Any = step(self._store)
        except StoreError:
            return self._ask_alone(self._go_alone(), step)
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            message = f"breaker {self.name!r} has an asynchronous store: await the async form"
            raise TypeError(message)
        return self._answered(answer)

    def _answered(self, answer: Answer) -> Answer:
        self._alone = None
        self._saw(answer[1])
        return answer

    def _go_alone(self) -> MemoryStore:
        self.store_errors += 1
        self._alone_until = time.monotonic() + STORE_RETRY_SECONDS
        if self._alone is None:
            self._tell(StoreUnavailable(self.name))
            self._alone = MemoryStore()
            if self._view:
                age = time.monotonic() - self._seen_at
                left = max(self._view.retry_after_seconds - age, 0.0)
                self._alone.seed(self.name, replace(self._view, retry_after_seconds=left))
        return self._alone

    def _ask_alone(self, alone: MemoryStore, step: Step) -> Answer:
        answer = cast("Answer", step(alone))  # a memory store answers at once
        self._saw(answer[1])
        # A view that is only ours must not be taken for the fleet's once the store is back.
        self._seen_at = 0.0
        return answer


def _refusal(view: BreakerView, age: float) -> Refusal | None:
    wait = view.retry_after_seconds - age
    return Refusal(view.state, wait, "held" if view.held else "open") if wait > 0 else None
