"""The chains of Celery that messages start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from celery import chain

from tasks.records.jobs import Queue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery
    from kombu.messaging import Producer

    from tasks.records.jobs import Ref
    from tasks.records.order import Order

LONGEST_SHOWN = 1024  # characters of a message's ids that Flower shows


class Route(NamedTuple):
    """Where a message goes: the chain that begins at a tier, and a queue."""

    tier: str
    queue: str


class Parcel(NamedTuple):
    """Jobs or units of one route that go together: in one message, unless they are too many."""

    route: Route
    refs: Sequence[Ref]

    @property
    def pairs(self) -> list[tuple[Any, ...]]:
        """The argument of its tasks."""
        return [tuple(ref) for ref in self.refs]


def shown(pairs: list[tuple[Any, ...]]) -> str:
    """Return what Flower shows of a message's argument."""
    return f"({pairs},)"[:LONGEST_SHOWN]


def chain_from(tier: str, order: Order) -> list[str]:
    """Return the names of the tasks from a tier on.

    A phase is alone, and so is a tier that is not in the order: who has it knows what comes next.
    """
    rest = order[order.index(tier) :] if tier in order else (tier,)
    return [f"tasks.{name}" for name in rest]


class Chains:
    """Has Celery publish chains."""

    def __init__(self, app: Celery, order: Order) -> None:
        self.app = app
        self._order = order
        self._tasks: dict[Route, Any] = {}

    def publish(self, parcel: Parcel, producer: Producer, **options: Any) -> None:
        """Publish a message; options: Celery's."""
        first, *rest = self._chain(parcel.route)
        # What `chain.apply_async` does, without copying every signature for every message.
        rest.reverse()
        pairs = parcel.pairs
        first.apply_async(
            (pairs,),
            chain=rest,
            producer=producer,
            retry=False,
            mandatory=True,  # RabbitMQ drops silently what is for a queue that was deleted
            argsrepr=shown(pairs),
            **options,
        )

    def _chain(self, route: Route) -> Any:
        known = self._tasks.get(route)
        if known is None:
            names = chain_from(route.tier, self._order)
            queues = [route.queue] + [Queue(route.queue).begun.value] * (len(names) - 1)
            steps = [
                self.app.signature(name).set(queue=queue)
                for name, queue in zip(names, queues, strict=True)
            ]
            known = self._tasks[route] = chain(*steps, app=self.app).tasks
        return known
