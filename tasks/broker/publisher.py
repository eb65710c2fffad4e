"""Puts jobs on the broker.

What is asked while a publish is in flight shares the next message (group commit): no timer, no
delay when idle, and a burst of lone requests does not cost one Celery chain each.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.broker.chains import Chains, Parcel, Route
from tasks.broker.couriers import KombuCourier
from tasks.broker.store_courier import StoreCourier
from tasks.errors import PublishError
from tasks.group_commit import GroupCommit
from tasks.records.batches import is_unit
from tasks.records.jobs import Dispatch, Queue, Ref
from tasks.records.order import next_of, order_of
from tasks.telemetry.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from celery import Celery

    from tasks.broker.couriers import Courier
    from tasks.broker.store_courier import Letter
    from tasks.store.connection import Connection

# Jobs in one message, at most.
SLICE = {queue.value: 1 if queue.kind is Queue.PHASES else 32 for queue in Queue}
MOST_REFUSED = 10_000  # that are kept until the broker is back; the sweeper finds the others
# Where so many jobs come that at least MORE do in LINGER_SECONDS, they wait for one another: what a
# message costs is shared.
LINGER_SECONDS, MORE = 0.004, 2.0
AGAIN_SECONDS = 1.0  # until what the broker did not take is published again

log = logging.getLogger(__name__)


class Parcels(GroupCommit[Parcel, None]):
    """Parcels that are published together, where it pays after a moment."""

    def __init__(
        self, commit: Callable[[list[Parcel]], Awaitable[Sequence[Exception | None]]]
    ) -> None:
        super().__init__(commit, sys.maxsize)
        self._came: deque[float] = deque([-math.inf], maxlen=8)

    def put(self, item: Parcel) -> asyncio.Future[None]:
        """Have a parcel take part in the next message."""
        self.note()
        return super().put(item)

    def note(self) -> None:
        """Count one that came."""
        self._came.append(time.monotonic())

    @property
    def many(self) -> bool:
        """Whether so many come that they wait for one another."""
        rate = len(self._came) / max(time.monotonic() - self._came[0], 1e-6)
        return rate * LINGER_SECONDS >= MORE

    async def _gather(self) -> None:
        if self.many:
            await asyncio.sleep(LINGER_SECONDS)


class Publisher:
    """Publishes for one event loop: whatever waits crosses over together."""

    def __init__(
        self,
        app: Celery,
        models: Iterable[str],
        observer: Observer | None = None,
        store: Connection | None = None,
    ) -> None:
        """models: the model tiers that are set up, in the order in which work falls through.

        store: where the broker's queues lie; None: they lie elsewhere.
        """
        self.order = order_of(models)
        self._observer = observer or Observer()
        self._refused: deque[Dispatch] = deque(maxlen=MOST_REFUSED)
        self._parcels = Parcels(self._publish_all)
        chains = Chains(app, self.order)
        self._by_store = StoreCourier(chains, store) if store else None
        self._courier: Courier = self._by_store or KombuCourier(chains)

    def next_tier(self, tier: str) -> str:
        """Return the tier after this one; the cache comes last and has none after it."""
        return next_of(self.order, tier)

    def start(self) -> None:
        """Be ready to publish."""
        self._courier.start()

    async def stop(self) -> None:
        """Publish what was asked before, and end."""
        await self._parcels.flush()
        await asyncio.to_thread(self._courier.stop)  # a broker that hangs is waited for

    async def publish(self, tier: str, queue_name: str, refs: Sequence[Ref]) -> None:
        """Publish jobs as chains that begin at tier; raise PublishError if the broker does not."""
        # Its asker may go away; the record says that it is dispatched, and so it is.
        publishing = self._parcels.put(Parcel(Route(tier, queue_name), refs))
        publishing.add_done_callback(_look_at)
        await asyncio.shield(publishing)

    def letter(self, tier: str, queue_name: str, ref: Ref) -> Letter | None:
        """Return the message of a job that is to be recorded; None if it is to be published."""
        if self._by_store is None or self._parcels.many:
            return None
        return self._by_store.letter(Parcel(Route(tier, queue_name), [ref]))

    def sent(self, letter: Letter) -> None:
        """Count a message that came with its record."""
        self._parcels.note()
        self._observer.published(1)
        if self._by_store:
            self._by_store.sent(letter)

    async def publish_new(self, tier: str, queue_name: str, refs: Sequence[Ref]) -> None:
        """Publish jobs that were recorded just now; raise PublishError if the broker does not.

        Where the queues lie in the store, nobody waits for it, as that has just answered: what it
        does not take is kept, as in dispatch().
        """
        if self._by_store is None:
            await self.publish(tier, queue_name, refs)
            return
        parcel = Parcel(Route(tier, queue_name), refs)
        self._parcels.put(parcel).add_done_callback(partial(self._look_after, parcel))

    def _look_after(self, parcel: Parcel, publishing: asyncio.Future[None]) -> None:
        if not publishing.cancelled() and publishing.exception():
            self._keep(parcel)

    def _keep(self, parcel: Parcel) -> None:
        (tier, queue_name), refs = parcel
        self._refused += [Dispatch(*ref, tier, queue_name) for ref in refs]

    async def _publish_all(self, parcels: list[Parcel]) -> list[Any]:
        try:
            messages = [message for group in _group(parcels) for message in _messages(group)]
            await self._courier.send(messages)
        except Exception as error:  # noqa: BLE001 - kombu raises its own, and none ends a loop
            refusal = error if isinstance(error, PublishError) else _unmade(error)
            log.warning("the broker did not take a message: %s", refusal.__cause__ or refusal)
            # Those that wait have waited as long, and for the same broker.
            self._parcels.reject_waiting(refusal)
            raise refusal from refusal.__cause__
        for message in messages:
            self._observer.published(len(message.refs))
        return [None] * len(parcels)

    async def dispatch(self, dispatches: Iterable[Dispatch]) -> None:
        """Publish what a transition gave out.

        The records say "dispatched" already: what the broker does not take is kept for
        dispatch_refused(), and would be found by the sweeper, after longer and longer.
        """
        routes: dict[Route, list[Ref]] = {}
        for each in dispatches:
            routes.setdefault(Route(each.tier, each.queue), []).append(Ref(each.id, each.attempt))
        for (tier, queue_name), refs in routes.items():
            try:
                await self.publish(tier, queue_name, refs)
            except PublishError as error:
                log.warning("%d records wait for the broker: %s", len(refs), error)
                self._keep(Parcel(Route(tier, queue_name), refs))

    async def keep(self) -> None:
        """Publish again and again what the broker did not take; run until cancelled."""
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            if self._refused:
                await self.dispatch_refused()

    async def dispatch_refused(self) -> None:
        """Publish again what the broker did not take; a message that comes twice is stale."""
        refused = list(self._refused)
        self._refused.clear()
        await self.dispatch(refused)

    async def empty(self, queue_names: Iterable[str]) -> dict[str, bool]:
        """Return for each queue whether the broker holds no message of it."""
        names = list(queue_names)
        depths = await self._courier.depths(names)
        return {name: not depth for name, depth in zip(names, depths, strict=True)}

    async def check(self) -> None:
        """Raise PublishError unless the broker answers."""
        await self.empty(["interactive"])


def _look_at(publishing: asyncio.Future[None]) -> None:
    # Whoever asked may have gone away: then nobody else does, and asyncio complains.
    if not publishing.cancelled():
        publishing.exception()


def _unmade(error: Exception) -> PublishError:
    refusal = PublishError(f"no message could be made: {type(error).__name__}")
    refusal.__cause__ = error
    return refusal


def _group(parcels: Iterable[Parcel]) -> list[list[Parcel]]:
    """Put parcels for one route together, up to a slice; a larger one travels alone."""
    groups: list[list[Parcel]] = []
    open_groups: dict[Route, list[Parcel]] = {}
    for parcel in parcels:
        group = open_groups.get(parcel.route)
        held = sum(len(p.refs) for p in group) if group else 0
        if group is None or held + len(parcel.refs) > SLICE[parcel.route.queue]:
            group = open_groups[parcel.route] = []
            groups.append(group)
        group.append(parcel)
    return groups


def _messages(group: Sequence[Parcel]) -> Iterator[Parcel]:
    """Yield what goes into one message each."""
    route = group[0].route
    refs = [ref for parcel in group for ref in parcel.refs]
    # A unit is a slice already.
    yield from (Parcel(route, [ref]) for ref in refs if is_unit(ref.id))
    jobs, size = [ref for ref in refs if not is_unit(ref.id)], SLICE[route.queue]
    yield from (Parcel(route, jobs[i : i + size]) for i in range(0, len(jobs), size))
