"""Puts jobs on the broker, from a thread of its own.

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
from typing import TYPE_CHECKING, Any, NamedTuple

from celery import chain
from kombu.exceptions import BatchPublishError

from tasks.broker.thread import BrokerThread
from tasks.errors import PublishError
from tasks.group_commit import GroupCommit
from tasks.records.batches import is_unit
from tasks.records.jobs import Dispatch, Queue, Ref
from tasks.records.order import next_of, order_of
from tasks.telemetry.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from celery import Celery
    from kombu.messaging import Producer

    from tasks.records.order import Order

# Jobs in one message, at most.
SLICE = {queue.value: 1 if queue.kind is Queue.PHASES else 32 for queue in Queue}
LONGEST_SHOWN = 1024  # characters of a message's ids that Flower shows
MOST_REFUSED = 10_000  # that are kept until the broker is back; the sweeper finds the others
PUBLISH_SECONDS = 8.0  # how long a publish may take
# Where so many jobs come that at least MORE do in LINGER_SECONDS, they wait for one another: what a
# message costs is shared.
LINGER_SECONDS, MORE = 0.004, 2.0

log = logging.getLogger(__name__)


class Route(NamedTuple):
    """Where a message goes: the chain that begins at a tier, and a queue."""

    tier: str
    queue: str


class Parcel(NamedTuple):
    """Jobs or units that are to be published together, for one route."""

    route: Route
    refs: Sequence[Ref]


class Parcels(GroupCommit[Parcel, None]):
    """Parcels that are published together, where it pays after a moment."""

    def __init__(
        self, commit: Callable[[list[Parcel]], Awaitable[Sequence[Exception | None]]]
    ) -> None:
        super().__init__(commit, sys.maxsize)
        self._came: deque[float] = deque([-math.inf], maxlen=8)

    def put(self, item: Parcel) -> asyncio.Future[None]:
        """Have a parcel take part in the next message."""
        self._came.append(time.monotonic())
        return super().put(item)

    async def _gather(self) -> None:
        rate = len(self._came) / max(time.monotonic() - self._came[0], 1e-6)
        if rate * LINGER_SECONDS >= MORE:
            await asyncio.sleep(LINGER_SECONDS)


def chain_from(tier: str, order: Order) -> list[str]:
    """Return the names of the tasks from a tier on.

    A phase is alone, and so is a tier that is not in the order: who has it knows what comes next.
    """
    rest = order[order.index(tier) :] if tier in order else (tier,)
    return [f"tasks.{name}" for name in rest]


class Publisher:
    """One thread that publishes, asked by one event loop: whatever waits crosses over together."""

    def __init__(
        self, app: Celery, models: Iterable[str], observer: Observer | None = None
    ) -> None:
        """models: the model tiers that are set up, in the order in which work falls through."""
        self._app = app
        self.order = order_of(models)
        self._observer = observer or Observer()
        self._chains: dict[Route, Any] = {}
        self._refused: deque[Dispatch] = deque(maxlen=MOST_REFUSED)
        self._parcels = Parcels(self._publish_all)
        self._thread = BrokerThread(app)

    def next_tier(self, tier: str) -> str:
        """Return the tier after this one; the cache comes last and has none after it."""
        return next_of(self.order, tier)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what was asked before, then end the thread."""
        self._thread.stop(PUBLISH_SECONDS)

    async def publish(self, tier: str, queue_name: str, refs: Sequence[Ref]) -> None:
        """Publish jobs as chains that begin at tier; raise PublishError if the broker does not."""
        # Its asker may go away; the record says that it is dispatched, and so it is.
        publishing = self._parcels.put(Parcel(Route(tier, queue_name), refs))
        publishing.add_done_callback(_look_at)
        await asyncio.shield(publishing)

    async def _publish_all(self, parcels: list[Parcel]) -> list[Any]:
        try:
            await self._call(lambda producer: self._send_all(parcels, producer))
        except PublishError as error:
            log.warning("the broker did not take a message: %s", error.__cause__ or error)
            # Those that wait have waited as long, and for the same broker.
            self._parcels.reject_waiting(error)
            raise
        return [None] * len(parcels)

    async def _call(self, work: Callable[[Any], Any]) -> Any:
        """Have the thread do work; raise PublishError if it takes too long."""
        if self._thread.stuck(PUBLISH_SECONDS):
            self._replace_thread()  # who asked for that call has gone away before
        call = self._thread.call(work)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(call), PUBLISH_SECONDS)
        except TimeoutError:
            if call.running():
                self._replace_thread()
            message = f"the broker did not take the job within {PUBLISH_SECONDS:g} s"
            raise PublishError(message) from None

    def _replace_thread(self) -> None:
        log.warning("a call to the broker does not return: another thread goes on")
        self._thread = self._thread.replace()

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
                self._refused += [Dispatch(*ref, tier, queue_name) for ref in refs]

    async def dispatch_refused(self) -> None:
        """Publish again what the broker did not take; a message that comes twice is stale."""
        refused = list(self._refused)
        self._refused.clear()
        await self.dispatch(refused)

    async def empty(self, queue_names: Iterable[str]) -> dict[str, bool]:
        """Return for each queue whether the broker holds no message of it."""
        names = list(queue_names)
        depths: dict[str, bool] = await self._call(lambda producer: self._depths(names, producer))
        return depths

    async def check(self) -> None:
        """Raise PublishError unless the broker answers."""
        await self.empty(["interactive"])

    def _send_all(self, parcels: list[Parcel], producer: Any) -> None:
        """Send parcels, grouped; in one round trip where the broker can."""
        try:
            with producer.batch():
                for group in _group(parcels):
                    self._send(group, producer)
        except BatchPublishError as error:
            raise (error.__cause__ or error) from None

    def _send(self, group: list[Parcel], producer: Producer) -> None:
        route = group[0].route
        refs = [ref for parcel in group for ref in parcel.refs]
        size = SLICE[route.queue]
        # A unit is a slice already.
        slices = [[ref] for ref in refs if is_unit(ref.id)]
        jobs = [ref for ref in refs if not is_unit(ref.id)]
        slices += [jobs[i : i + size] for i in range(0, len(jobs), size)]
        first, *rest = self._chain(route).tasks
        # What `chain.apply_async` does, without copying every signature for every message.
        rest.reverse()
        for part in slices:
            pairs = [tuple(ref) for ref in part]
            shown = f"({pairs},)"[:LONGEST_SHOWN]
            first.apply_async(
                (pairs,),
                chain=rest,
                producer=producer,
                retry=False,
                mandatory=True,  # RabbitMQ drops silently what is for a queue that was deleted
                argsrepr=shown,
            )
            self._observer.published(len(part))

    def _chain(self, route: Route) -> Any:
        known = self._chains.get(route)
        if known is None:
            names = chain_from(route.tier, self.order)
            queues = [route.queue] + [Queue(route.queue).begun.value] * (len(names) - 1)
            steps = [
                self._app.signature(name).set(queue=queue)
                for name, queue in zip(names, queues, strict=True)
            ]
            known = self._chains[route] = chain(*steps, app=self._app)
        return known

    def _depths(self, names: Iterable[str], producer: Producer) -> dict[str, bool]:
        queues: Mapping[str, Any] = self._app.amqp.queues
        return {
            name: queues[name](producer.channel).queue_declare(passive=False).message_count == 0
            for name in names
        }


def _look_at(publishing: asyncio.Future[None]) -> None:
    # Whoever asked may have gone away: then nobody else does, and asyncio complains.
    if not publishing.cancelled():
        publishing.exception()


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
