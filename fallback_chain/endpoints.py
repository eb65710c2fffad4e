"""A tier of several model servers: the least loaded that is well is asked, and then the others.

Each has a breaker of its own, so that one bad server never takes the tier away: the tier refuses
only when all of them do. What a server could not answer another is asked at once, within the same
try of the tier. A server whose breaker is due for a probe is asked for its models in the
background, which costs nobody anything, and then gets one call at a time until it is closed.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from circuit_breaker import CircuitState
from fallback_chain.body import Body, Endpoint
from fallback_chain.errors import UpstreamError
from fallback_chain.trial import MISFIT, Attempt, Trial, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from circuit_breaker import Refusal
    from fallback_chain.needs import Needs
    from fallback_chain.streams import Sink
    from fallback_chain.tier import ChatTier, TierConfig

# What one server's try may come to that says nothing of another's.
_ANOTHER_MAY = {
    *(Verdict.FAILURE, Verdict.SATURATED, Verdict.MISCONFIGURED, Verdict.REJECTED, Verdict.UNFIT),
}


@dataclass(eq=False)
class _Endpoint:
    """One of the servers. calls: of this process, that run now; asked: when it was the last."""

    number: int
    server: ChatTier
    calls: int = 0
    asked: int = 0


class _Call(NamedTuple):
    body: Body
    left: float | None
    endpoint: str
    request_id: str
    sink: Sink | None


class TierOfEndpoints:
    """Asks one of several model servers, as ChatTier asks its one; belongs to one event loop."""

    def __init__(self, config: TierConfig, servers: Sequence[ChatTier]) -> None:
        self.config = config
        self._endpoints = [_Endpoint(number, each) for number, each in enumerate(servers, 1)]
        self._asked = 0
        self._knocking: set[asyncio.Task[None]] = set()

    # What their breakers say of the tier

    def refusal(self) -> Refusal | None:
        """Return the shortest of the refusals if all would refuse, as far as is known; no I/O."""
        return self._shortest([each.server.refusal() for each in self._endpoints])

    def reject(self) -> Refusal | None:
        """Refuse as ask() would, as far as is known here, and count it; no I/O."""
        if self.refusal() is None:
            return None
        return self._shortest([each.server.reject() for each in self._endpoints])

    def _shortest(self, refusals: Sequence[Refusal | None]) -> Refusal | None:
        found = [refusal for refusal in refusals if refusal is not None]
        if len(found) < len(refusals):
            return None
        return min(found, key=lambda refusal: refusal.retry_after_seconds)

    @property
    def closed(self) -> bool:
        """Whether a server takes calls as if nothing had happened, as last seen here; no I/O."""
        return any(each.server.closed for each in self._endpoints)

    @property
    def well(self) -> bool:
        """Whether a server takes every call, as last seen here; no I/O."""
        return any(each.server.well for each in self._endpoints)

    @property
    def share(self) -> float:
        """The share of calls that one of them takes now, as last seen here; no I/O."""
        return max(each.server.share for each in self._endpoints)

    async def due_seconds(self) -> float:
        """Ask the store in how many seconds a call may be let through; 0: now."""
        return min(await asyncio.gather(*(each.server.due_seconds() for each in self._endpoints)))

    async def knock(self) -> None:
        """Ask those that are due for a probe for their models, which costs no tokens."""
        await asyncio.gather(*(each.server.knock() for each in self._endpoints))

    # The servers

    async def models(self) -> list[str]:
        """Return the models that any of them has; raises UpstreamError if none tells."""
        told = await asyncio.gather(
            *(each.server.models() for each in self._endpoints), return_exceptions=True
        )
        lists = [names for names in told if isinstance(names, list)]
        if not lists:
            raise next(error for error in told if isinstance(error, BaseException))
        for error in told:
            if isinstance(error, BaseException) and not isinstance(error, UpstreamError):
                raise error
        return list(dict.fromkeys(name for names in lists for name in names))

    def misfit(self, needs: Needs) -> Trial | None:
        """Return the try of a request that this tier is known not to take; None: it may."""
        return self._endpoints[0].server.misfit(needs)

    async def ask(
        self,
        body: Body | Mapping[str, Any],
        timeout_seconds: float | None = None,
        endpoint: str = Endpoint.CHAT,
        request_id: str = "",
        sink: Sink | None = None,
    ) -> Trial:
        """Try to get an answer, of one server after the other; as ChatTier.ask().

        The trial's earlier tries are in its `before`, each with its server's number.
        """
        body = Body.of(body)
        if misfit := self.misfit(body.needs):
            return misfit
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        trials: list[Trial] = []
        refused = Trial(Attempt(self.config.name, Verdict.REJECTED, 0.0))
        for each in self._in_turn(body.model):
            if trials and each.server.refusal():
                continue
            left = None if until is None else until - time.monotonic()
            # Some servers go by it: each call has its own.
            name = f"{request_id}-{len(trials) + 1}" if request_id and trials else request_id
            trial = await self._ask_one(each, _Call(body, left, endpoint, name, sink))
            if trial.attempt.verdict is Verdict.REJECTED:
                refused = trial
                continue
            trials.append(_of_endpoint(trial, each.number))
            if not _another_may(trial) or (sink and sink.committed):
                break
        return self._concluded(trials, refused)

    async def _ask_one(self, each: _Endpoint, call: _Call) -> Trial:
        each.calls += 1
        self._asked += 1
        each.asked = self._asked
        try:
            return await each.server.ask(*call)
        finally:
            each.calls -= 1

    def _in_turn(self, model: str) -> list[_Endpoint]:
        """Return the servers that may be asked, in their order; one that refuses if all do."""
        open_to = [each for each in self._endpoints if each.server.refusal() is None]
        if not open_to:
            return [min(self._endpoints, key=_seconds_left)]
        well = [each for each in open_to if each.server.well]
        well.sort(key=lambda each: (not each.server.serves(model), each.calls, each.asked))
        due = [each for each in open_to if not each.server.well and not each.calls]
        if not well:
            return sorted(open_to, key=lambda each: (each.calls, each.asked))
        for each in due:
            self._knock_at(each)
        return [each for each in due if each.server.breaker.state is not CircuitState.OPEN] + well

    def _knock_at(self, each: _Endpoint) -> None:
        """Have one that is due say whether it is there, before anybody's call is its probe."""
        if each.server.breaker.state is not CircuitState.OPEN:
            return
        each.calls += 1
        knocking = asyncio.create_task(each.server.knock())
        self._knocking.add(knocking)

        def knocked(task: asyncio.Task[None]) -> None:
            self._knocking.discard(task)
            each.calls -= 1
            if not task.cancelled():
                task.exception()  # its breaker has noted it

        knocking.add_done_callback(knocked)

    def _concluded(self, trials: Sequence[Trial], refused: Trial) -> Trial:
        """Return the try of the tier as a whole; what fits one server not may fit another."""
        # The last try is the tier's: what another time may mend goes after what may not.
        ordered = sorted(trials, key=lambda trial: trial.attempt.verdict is not Verdict.UNFIT)
        unfit = [trial for trial in ordered if trial.attempt.verdict is Verdict.UNFIT]
        if not ordered or (len(unfit) == len(ordered) and not self._fits_none(unfit)):
            ordered.append(refused)
        *before, last = ordered
        if last.attempt.verdict is Verdict.UNFIT:
            last = _of_endpoint(last, 0)
        return msgspec.structs.replace(last, before=tuple(trial.attempt for trial in before))

    def _fits_none(self, unfit: Sequence[Trial]) -> bool:
        return len(unfit) == len(self._endpoints) or not _another_may(unfit[-1])


def _another_may(trial: Trial) -> bool:
    """Whether another server may answer what this one did not. An answer in no form is the same."""
    attempt = trial.attempt
    return attempt.verdict in _ANOTHER_MAY and not attempt.detail.startswith(MISFIT)


def _of_endpoint(trial: Trial, number: int) -> Trial:
    attempt = msgspec.structs.replace(trial.attempt, endpoint=number)
    return msgspec.structs.replace(trial, attempt=attempt)


def _seconds_left(each: _Endpoint) -> float:
    refusal = each.server.refusal()
    return refusal.retry_after_seconds if refusal else 0.0
