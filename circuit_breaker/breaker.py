"""The breaker that callers hold: a local view in front of a store."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from circuit_breaker.config import CircuitBreakerConfig
from circuit_breaker.errors import ChangeLostError, CircuitBreakerError, StoreError
from circuit_breaker.events import (
    CallRecorded,
    CallRejected,
    Event,
    Held,
    LateResult,
    Overridden,
    StateChanged,
    StoreUnavailable,
)
from circuit_breaker.fork_lock import ForkLock
from circuit_breaker.machine import (
    MIDDLE,
    RAMP_WAIT_MS,
    Action,
    BreakerView,
    Change,
    CircuitState,
    Outcome,
    Override,
    Permit,
    Refusal,
    Report,
    Rules,
    share_of_calls,
)
from circuit_breaker.stores import MemoryStore, draw, read_change

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from circuit_breaker.machine import Machine
    from circuit_breaker.stores import Answer, Decision, Store

    Step = Callable[[Store], Answer | Awaitable[Answer]]

VIEW_SECONDS = 1.0  # how old a view may be that lets calls through, or refuses them, unasked
SHARED_RECORD_SECONDS = 0.02  # how long a success waits for others to be recorded with it
STORE_RETRY_SECONDS = 1.0  # how long a store that failed is left alone

log = logging.getLogger(__name__)


class _Successes(NamedTuple):
    """Successes that share the next record."""

    permit: Permit
    calls: int
    slow: int


def _under_way(task: asyncio.Task[Any] | None) -> asyncio.Task[Any] | None:
    """Return a task unless it is done, or was a loop's that has ended."""
    if task is None or task.done():
        return None
    return task if task.get_loop() is asyncio.get_running_loop() else None


class CircuitBreaker:
    """Guards calls to one service; any number of breakers of one name share a store's state.

    A closed breaker admits from a view at most a second old, which every record refreshes: one
    round trip a call. An open one refuses from its view, asking the store once a second at most.
    What another process changed is known at once where somebody listens (take_in()), else when
    the view is a second old.
    When the store is out of reach the breaker decides alone, from what it saw last; no storage
    error ever reaches a caller. The constructor does no I/O.
    """

    def __init__(
        self,
        name: str,
        config: CircuitBreakerConfig | None = None,
        store: Store | None = None,
        on_event: Callable[[Event], None] | None = None,
        draw: Callable[[], float] = draw,
    ) -> None:
        """draw: a number from 0 to 1 by chance; for jitter, and for who comes while it ramps up."""
        self.name = name
        self.config = config or CircuitBreakerConfig()
        self.store_errors = 0
        self._rules = Rules.of(self.config)
        self._store: Store = store or MemoryStore()
        # A store in this process can be looked at without asking.
        self._local = self._store if isinstance(self._store, MemoryStore) else None
        self._asynchronous = inspect.iscoroutinefunction(self._store.acquire)
        # Who listens is told of each call, and a predicate judges each result.
        told = bool(on_event) or self.config.is_failure is not None
        self._calm: Mapping[str, Machine] = self._local.calm if self._local and not told else {}
        self._listeners = [on_event] if on_event else []
        # What is not up to chance needs none.
        by_chance = self.config.recovery_jitter or self.config.ramp_seconds
        self._draw = draw if by_chance else lambda: MIDDLE
        self._first_at = 0.0  # when a call was let through whatever was drawn
        self._lock = ForkLock()
        self._view: BreakerView | None = None
        self._seen_at = 0.0  # when the view was fresh; 0: it must not be believed
        self._told_at = 0.0  # when the view came
        self._alone: MemoryStore | None = None
        self._alone_until = 0.0
        self._permit: tuple[BreakerView, Permit] | None = None  # of the view that is closed
        self._succeeded = CallRecorded(name, Outcome.SUCCESS)
        self._unrecorded: _Successes | None = None
        self._shares_until = 0.0  # successes until then wait for one another
        self._sharing: asyncio.Task[None] | None = None  # what records them soon
        self._recording: asyncio.Task[Any] | None = None  # of successes that nobody waits for
        self._behind: set[asyncio.Task[Answer]] = set()  # what is recorded behind them
        self._giving_back: set[asyncio.Task[BreakerView]] = set()

    def add_listener(self, callback: Callable[[Event], None]) -> None:
        """Call it with every event from now on, where the event is noticed: it must not block.

        A StateChanged comes for what other processes changed, too. What it raises is logged.
        """
        self._listeners.append(callback)
        self._calm = {}

    # Asking and reporting

    async def acquire(self) -> Permit | Refusal:
        """Ask to make a call. A Permit must be given back through record()."""
        decision: Decision | None = self._known()
        if decision is None:
            answer = self._ask_sync(self._acquire) if self._local else await self._ask_shielded()
            decision = answer[0]
        return self._told(decision)

    async def record(
        self,
        permit: Permit,
        outcome: Outcome,
        hold_seconds: float | None = None,
        seconds: float = 0.0,
        *,
        wait: bool = True,
    ) -> BreakerView:
        """Report what a call came to.

        hold_seconds: how long the server asked to be left alone. seconds: how long the call took,
        where slow calls count. wait: False: of a success that is no probe's, by which nothing can
        change for the worse, the caller does not wait until the store has it.
        """
        report = Report(outcome, int((hold_seconds or 0.0) * 1000), slow=self._slow(seconds))
        noted = self._noted(permit, report)
        if noted:
            return noted
        if outcome is Outcome.SUCCESS and not permit.probe:
            self._shares_until = time.monotonic() + SHARED_RECORD_SECONDS
            recording = self._record_success(permit, report)
            if wait or self._view is None:
                return await recording
            self._recording = asyncio.create_task(recording)
            return self._view
        return self._recorded(outcome, await self._record_behind(permit, report))

    def _noted(self, permit: Permit, report: Report) -> BreakerView | None:
        """Record what needs no waiting, if it is that: in memory, or together with the next one."""
        if self._local:
            return self._recorded(report.outcome, self._ask_sync(self._record(permit, report)))
        shares = report.outcome is Outcome.SUCCESS and not permit.probe
        if not shares or self._view is None or time.monotonic() >= self._shares_until:
            return None
        self._unrecorded = self._with_unrecorded(permit, report.slow)
        if _under_way(self._sharing) is None:
            self._sharing = asyncio.create_task(self._record_soon())
        self._tell(self._succeeded)
        return self._view

    def _slow(self, seconds: float) -> int:
        """Return how many slow calls a call of that length is: 0 or 1."""
        limit = self.config.slow_call_seconds
        return int(limit is not None and seconds >= limit)

    def _acquire(self, store: Store) -> Answer | Awaitable[Answer]:
        return store.acquire(self.name, self._rules, self._place())

    def _record(self, permit: Permit, report: Report) -> Step:
        return lambda store: store.record(self.name, permit, report, self._rules, self._draw())

    def _place(self) -> float:
        """Draw a place among the calls of a ramp: that of one call now and then is the first.

        So a lone call has no need to be lucky, and each process has leave for a few a second.
        """
        now = time.monotonic()
        if now - self._first_at >= RAMP_WAIT_MS / 1000:
            self._first_at = now
            return 0.0
        return self._draw()

    def _look(self, store: Store) -> Answer | Awaitable[Answer]:
        return store.view(self.name)

    async def _ask_shielded(self) -> Answer:
        """Ask for a permit; one that comes when its caller was cancelled goes back."""
        asking = asyncio.ensure_future(self._ask(self._acquire))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(self._give_back)
            raise

    def _give_back(self, asking: asyncio.Future[Answer]) -> None:
        if asking.cancelled() or asking.exception():
            return
        permit = asking.result()[0]
        if isinstance(permit, Permit) and permit.probe:
            giving = asyncio.ensure_future(self.record(permit, Outcome.IGNORED))
            self._giving_back.add(giving)
            giving.add_done_callback(self._giving_back.discard)

    async def _record_success(self, permit: Permit, report: Report) -> BreakerView:
        """Record a success; those that come soon after it share the next record."""
        answer = await self._ask(self._record(permit, report))
        return self._recorded(Outcome.SUCCESS, answer)

    def _with_unrecorded(self, permit: Permit, slow: int) -> _Successes:
        rest = self._unrecorded
        if rest is None or rest.permit != permit:  # those of an earlier generation would be late
            return _Successes(permit, 1, slow)
        return _Successes(permit, rest.calls + 1, rest.slow + slow)

    async def _record_soon(self) -> None:
        while self._unrecorded is not None:
            await asyncio.sleep(SHARED_RECORD_SECONDS)
            self._shares_until = time.monotonic() + SHARED_RECORD_SECONDS
            self._recording = asyncio.create_task(self._record_unrecorded())
            await self._recording

    async def _record_unrecorded(self) -> None:
        rest, self._unrecorded = self._unrecorded, None
        if rest is not None:
            report = Report(Outcome.SUCCESS, calls=rest.calls, slow=rest.slow)
            await self._ask(self._record(rest.permit, report))

    async def _record_behind(self, permit: Permit, report: Report) -> Answer:
        """Record what is no success: failures in a row are those without a success between."""
        if self._unrecorded is None and _under_way(self._recording) is None:
            return await self._ask(self._record(permit, report))
        # Whoever is cut off meanwhile has it recorded all the same.
        recording = asyncio.create_task(self._record_in_turn(permit, report))
        self._behind.add(recording)
        recording.add_done_callback(self._behind.discard)
        return await asyncio.shield(recording)

    async def _record_in_turn(self, permit: Permit, report: Report) -> Answer:
        if recording := _under_way(self._recording):
            await asyncio.wait([recording])
        await self._record_unrecorded()
        return await self._ask(self._record(permit, report))

    # Looking

    async def view(self) -> BreakerView:
        """Look at the shared state now."""
        return (await self._ask(self._look))[1]

    def refusal(self) -> Refusal | None:
        """Return what acquire() would refuse with, as far as is known here; no permit, no I/O.

        While it ramps up nobody knows before it is asked: None.
        """
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
        view, _ = self._last()
        return view.state if view else CircuitState.CLOSED

    @property
    def due_in_seconds(self) -> float | None:
        """Seconds until a call may go through; 0: a probe is due. None: calls go through.

        Of one that was opened by hand: infinity. As last seen here, however long ago: no I/O.
        """
        view, age = self._last()
        if view is None or view.override is Override.DISABLED:
            return None
        if view.override is Override.OPEN:
            return math.inf
        wait = view.retry_after_seconds
        if view.state is CircuitState.CLOSED and wait <= age:
            return None
        if view.probes >= self.config.half_open_permits:
            wait = max(wait, view.lease_seconds)
        return max(wait - age, 0.0)

    @property
    def share(self) -> float:
        """The share of calls that goes through now, as last seen here: from 0 to 1.

        Below 1 while it ramps up after an outage. A probe is no share of anything: 0.
        """
        view, age = self._last()
        if view is None:
            return 1.0
        refused = view.state is not CircuitState.CLOSED or _refusal(view, age)
        return 0.0 if refused else self._share(view, age)

    def share_of(self, view: BreakerView) -> float:
        """Return the share of calls that goes through by a view that has just been taken."""
        refused = view.state is not CircuitState.CLOSED or _refusal(view, age=0.0)
        return 0.0 if refused else self._share(view, age=0.0)

    def _last(self) -> tuple[BreakerView | None, float]:
        """Return the last view, and its age (s)."""
        if self._local:
            return self._local.view(self.name)[1], 0.0
        return self._view, time.monotonic() - self._told_at

    def _share(self, view: BreakerView, age: float) -> float:
        closed = view.closed_seconds
        closed_ms = None if closed is None else (closed + age) * 1000
        return share_of_calls(closed_ms, self._rules.ramp_ms)

    # By hand, for everybody who shares the state. With an asynchronous store: the forms with an a,
    # on its event loop; from any other thread or program, a breaker of that name with a RedisStore.

    def force_open(self, by: str, why: str) -> BreakerView:
        """Refuse every call until auto() or reset(). Raises ChangeLostError, as all of these."""
        return self._change(Change(Action.OPEN, by, why))

    def disable(self, by: str, why: str) -> BreakerView:
        """Admit every call, and count none, until auto() or reset()."""
        return self._change(Change(Action.DISABLE, by, why))

    def auto(self, by: str, why: str) -> BreakerView:
        """End an override; what was open is probed at once."""
        return self._change(Change(Action.AUTO, by, why))

    def reset(self, by: str = "", why: str = "") -> BreakerView:
        """Close it at once, whatever was."""
        return self._change(Change(Action.RESET, by, why))

    async def aforce_open(self, by: str, why: str) -> BreakerView:
        """As force_open()."""
        return await self.achange(Action.OPEN, by, why)

    async def adisable(self, by: str, why: str) -> BreakerView:
        """As disable()."""
        return await self.achange(Action.DISABLE, by, why)

    async def aauto(self, by: str, why: str) -> BreakerView:
        """As auto()."""
        return await self.achange(Action.AUTO, by, why)

    async def areset(self, by: str = "", why: str = "") -> BreakerView:
        """As reset()."""
        return await self.achange(Action.RESET, by, why)

    async def achange(self, action: Action, by: str, why: str) -> BreakerView:
        """Do what an operator wants. Raises ChangeLostError when the store does not answer."""
        asked_at = time.monotonic()
        try:
            answer: Any = self._store.override(self.name, Change(action, by, why))
            if inspect.isawaitable(answer):
                answer = await answer
        except StoreError as error:
            raise ChangeLostError(self.name) from error
        return self._answered(answer, asked_at)[1]

    def _change(self, change: Change) -> BreakerView:
        asked_at = time.monotonic()
        try:
            answer = self._at_once(self._store.override(self.name, change))
        except StoreError as error:
            raise ChangeLostError(self.name) from error
        return self._answered(answer, asked_at)[1]

    # Calls

    async def call(self, work: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Await work within the time limit; raises CircuitBreakerError if it is refused."""
        calm = self._calm.get(self.name)
        permit = None if calm else self._granted(await self.acquire())
        outcome, began = Outcome.IGNORED, time.monotonic()  # what a cancelled call says
        try:
            limit = asyncio.timeout(self.config.timeout_seconds)
            try:
                async with limit:
                    result = work(*args, **kwargs)
                    if type(result) is CoroutineType or inspect.isawaitable(result):
                        result = await result
            except Exception as error:
                outcome = Outcome.FAILURE if limit.expired() else self._outcome_of_error(error)
                raise
            # Late, too, is what would not be cancelled, or kept the loop busy.
            most = self.config.timeout_seconds
            late = limit.expired() or time.monotonic() - began >= most
            outcome = Outcome.FAILURE if late else self._outcome_of(result)
            return result
        finally:
            if calm is not None and (outcome is not Outcome.SUCCESS or not self._is_still(calm)):
                permit = _plain_permit(calm)
            if permit is not None:
                seconds = time.monotonic() - began
                if not self._noted(permit, Report(outcome, slow=self._slow(seconds))):
                    await asyncio.shield(self.record(permit, outcome, seconds=seconds))

    def call_sync(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call work from synchronous code; its time limit is its own.

        Raises TypeError, and does not call it, where the store is an asynchronous one: use a
        breaker of the same name with a RedisStore there, which shares the state and may be used by
        any thread.
        """
        calm = self._calm.get(self.name)
        if calm is None:
            return self._call_granted(self._granted(self._acquire_sync()), work, *args, **kwargs)
        try:
            result = work(*args, **kwargs)
        except Exception as error:
            self._settle(_plain_permit(calm), self._outcome_of_error(error))
            raise
        if not self._is_still(calm):
            self._settle(_plain_permit(calm), Outcome.SUCCESS)
        return result

    def _call_granted(
        self, permit: Permit, work: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        outcome, began = Outcome.IGNORED, time.monotonic()
        try:
            try:
                result = work(*args, **kwargs)
            except Exception as error:
                outcome = self._outcome_of_error(error)
                raise
            outcome = self._outcome_of(result)
            return result
        finally:
            self._settle(permit, outcome, time.monotonic() - began)

    def _settle(self, permit: Permit, outcome: Outcome, seconds: float = 0.0) -> None:
        step = self._record(permit, Report(outcome, slow=self._slow(seconds)))
        self._recorded(outcome, self._ask_sync(step))

    def _acquire_sync(self) -> Permit | Refusal:
        if self._asynchronous:  # a view may admit a call that could not be recorded
            raise self._is_asynchronous()
        return self._told(self._known() or self._ask_sync(self._acquire)[0])

    def _granted(self, decision: Permit | Refusal) -> Permit:
        if isinstance(decision, Refusal):
            raise CircuitBreakerError(self.name, decision.reason, decision.retry_after_seconds)
        return decision

    def _is_still(self, calm: Machine) -> bool:
        """Whether a breaker that was calm has not changed: then a success says nothing new."""
        return self._calm.get(self.name) is calm

    def _outcome_of(self, result: object) -> Outcome:
        judge = self.config.is_failure
        return Outcome.FAILURE if judge is not None and judge(result) else Outcome.SUCCESS

    def _outcome_of_error(self, error: Exception) -> Outcome:
        if isinstance(error, self.config.ignored_exceptions):
            return Outcome.IGNORED
        judge = self.config.is_failure
        return Outcome.FAILURE if judge is None or judge(error) else Outcome.SUCCESS

    # The local view

    def _known(self) -> Permit | Refusal | None:
        """Decide from the local view, if it is fresh enough to decide."""
        if self._local:
            return None  # asking costs nothing
        view, age = self._view, time.monotonic() - self._seen_at
        if view is None or age > VIEW_SECONDS or not view.epoch:
            return None
        refusal = _refusal(view, age)
        if refusal:
            return refusal
        if view.state is not CircuitState.CLOSED:
            return None
        if view.closed_seconds is not None:
            share = self._share(view, age)
            if share < 1 and self._place() >= share:
                return Refusal(view.state, RAMP_WAIT_MS / 1000, "ramping")
        # Only a probe's permit is leased, and needs a name of its own.
        if self._permit is None or self._permit[0] is not view:
            self._permit = view, Permit("", view.generation, view.epoch, probe=False)
        return self._permit[1]

    def take_in(self, message: bytes | str) -> None:
        """Take in a message of CHANNEL that is this breaker's; others are none of its business.

        One that is older than what is known here changes nothing. Never asks the store.
        """
        change = read_change(message)
        if change is None or change[0] != self.name or self._local or self._alone:
            return
        view, known = change[1], self._view
        if known is not None and known.epoch and known.epoch != view.epoch:
            self._seen_at = 0.0  # one of the two is of before a flush: the store knows which
        else:
            self._saw(view, asked_at=0.0)  # nobody asked: by its version alone

    def _saw(self, view: BreakerView, asked_at: float | None = None) -> None:
        """Take a view for the latest, unless it is late. asked_at: None for one of our own store.

        Answers come in any order: of what was asked before the known view came, the version tells.
        What was asked later is newer whatever its version: the store may have lost some.
        """
        with self._lock:
            before = self._view
            crossed = asked_at is not None and asked_at <= self._told_at
            if before is not None and crossed and _is_older(view, before):
                return
            self._view = view
            self._seen_at = self._told_at = time.monotonic()
        was = before.state if before else CircuitState.CLOSED
        if was is not view.state:
            self._tell(StateChanged(self.name, was, view.state))
        if view.held and not (before and before.held):
            self._tell(Held(self.name, view.hold_reason, view.retry_after_seconds))
        if view.override is not (before.override if before else Override.NONE):
            self._tell(Overridden(self.name, view.override, view.by, view.why))

    def _told(self, decision: Decision) -> Permit | Refusal:
        if isinstance(decision, bool):
            message = "a store answered acquire without a decision"
            raise TypeError(message)
        if isinstance(decision, Refusal):
            self._tell(CallRejected(self.name, decision.reason))
        return decision

    def _recorded(self, outcome: Outcome, answer: Answer) -> BreakerView:
        if self._listeners:
            self._tell(CallRecorded(self.name, outcome))
            if not answer[0]:
                self._tell(LateResult(self.name))
        return answer[1]

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # its own fault: no call goes wrong by it
                log.exception("breaker %s: a listener failed", self.name)

    # The store, and its stand-in

    async def _ask(self, step: Step) -> Answer:
        asked_at = time.monotonic()
        alone = self._alone  # once: the store may come back in another thread
        if alone is not None and asked_at < self._alone_until:
            return self._ask_alone(alone, step)
        try:
            answer: Any = step(self._store)
            if inspect.isawaitable(answer):
                answer = await answer
        except StoreError:
            return self._ask_alone(self._go_alone(), step)
        return self._answered(answer, asked_at)

    def _ask_sync(self, step: Step) -> Answer:
        asked_at = time.monotonic()
        alone = self._alone  # once: the store may come back in another thread
        if alone is not None and asked_at < self._alone_until:
            return self._ask_alone(alone, step)
        try:
            answer = self._at_once(step(self._store))
        except StoreError:
            return self._ask_alone(self._go_alone(), step)
        return self._answered(answer, asked_at)

    def _at_once(self, answer: Answer | Awaitable[Answer]) -> Answer:
        if isinstance(answer, tuple):
            return answer
        if inspect.iscoroutine(answer):
            answer.close()
        raise self._is_asynchronous()

    def _is_asynchronous(self) -> TypeError:
        message = f"breaker {self.name!r} has an asynchronous store: await the async form"
        return TypeError(message)

    def _answered(self, answer: Answer, asked_at: float) -> Answer:
        # What was seen alone has no place among the store's versions.
        was_alone, self._alone = self._alone, None
        if answer[1] is not self._view:
            self._saw(answer[1], None if was_alone or self._local else asked_at)
        return answer

    def _go_alone(self) -> MemoryStore:
        self.store_errors += 1
        self._alone_until = time.monotonic() + STORE_RETRY_SECONDS
        alone = self._alone
        if alone is None:
            self._tell(StoreUnavailable(self.name))
            alone = MemoryStore()
            if self._view:
                alone.seed(self.name, _aged(self._view, time.monotonic() - self._told_at))
            self._alone = alone
        return alone

    def _ask_alone(self, alone: MemoryStore, step: Step) -> Answer:
        answer = cast("Answer", step(alone))  # a memory store answers at once
        self._saw(answer[1])
        # A view that is only ours must not be taken for the fleet's once the store is back.
        self._seen_at = 0.0
        return answer


def _plain_permit(calm: Machine) -> Permit:
    return Permit("", calm.generation, calm.epoch, probe=False)


def _aged(view: BreakerView, seconds: float) -> BreakerView:
    """Return a view as it is so long after it was taken, if nothing else happened."""
    closed = view.closed_seconds
    return view._replace(
        retry_after_seconds=max(view.retry_after_seconds - seconds, 0.0),
        closed_seconds=None if closed is None else closed + seconds,
    )


def _is_older(view: BreakerView, known: BreakerView) -> bool:
    return view.epoch == known.epoch and view.version < known.version


def _refusal(view: BreakerView, age: float) -> Refusal | None:
    """Return what a view refuses with, at that age (s), whoever asks."""
    if view.override is Override.OPEN:
        return Refusal(view.state, view.retry_after_seconds, "forced_open")
    wait = view.retry_after_seconds - age
    return Refusal(view.state, wait, "held" if view.held else "open") if wait > 0 else None
