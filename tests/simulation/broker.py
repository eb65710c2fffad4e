"""The broker and Celery: messages, and who takes them; lost, doubled, late, out of order."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from simulation.loop import current
from tasks.broker.chains import Parcel
from tasks.errors import PublishError
from tasks.records.jobs import Queue
from workers.process import SPARE_THREADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from simulation.loop import Node
    from simulation.world import World
    from tasks.broker.chains import Chains, Route

NETWORK_SECONDS = 0.003


class Step(NamedTuple):
    """A task of a chain, and the queue where it lies."""

    tier: str
    queue: str


@dataclass(eq=False)
class Message:
    """A task of a chain: the rest of it travels along."""

    steps: list[Step]
    pairs: list[tuple[str, int]]

    @property
    def queue(self) -> str:
        return self.steps[0].queue


@dataclass(eq=False)
class Consumer:
    """A worker that takes messages: so many at once, of these queues, the first ones first.

    free: threads; the last SPARE_THREADS are for what has begun once.
    """

    node: Node
    queues: Sequence[str]
    free: int
    take: Any  # starts a message's work
    unacknowledged: list[Message] = field(default_factory=list)

    def takes(self, name: str) -> bool:
        spare = 0 if Queue(name).is_begun else SPARE_THREADS
        return self.free > spare and name in self.queues


class Broker:
    """Queues. What a message is lost by, or doubled, the faults say."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.rng = world.rng("broker")
        names = sorted((queue.value for queue in Queue), key=lambda name: not Queue(name).is_begun)
        self.queues: dict[str, list[Message]] = {name: [] for name in names}
        self.consumers: list[Consumer] = []
        self._on_way: list[Message] = []
        self.sent = 0

    def publish(self, message: Message) -> None:
        """Take a message, if nothing happens to it."""
        rng, faults = self.rng, self._world.faults
        self.sent += 1
        copies = 0 if faults.loses_message(rng) else 2 if faults.doubles_message(rng) else 1
        for _ in range(copies):
            delay = rng.random() * NETWORK_SECONDS
            if faults.delays_message(rng):
                delay = rng.uniform(0.5, 40)
            self._send(message, delay)

    def read(self, text: str) -> None:
        """Take a message that came by the store."""
        steps, pairs = json.loads(text)
        self.publish(Message([Step(*step) for step in steps], [tuple(pair) for pair in pairs]))

    def holds(self, pair: tuple[str, int]) -> bool:
        """Return whether a message of this pair is on its way, waits, or is in somebody's hands."""
        taken = [each.unacknowledged for each in self.consumers]
        places = (self._on_way, *self.queues.values(), *taken)
        return any(pair in map(tuple, message.pairs) for place in places for message in place)

    def _send(self, message: Message, delay: float) -> None:
        self._on_way.append(message)
        self._world.loop.outside_later(delay, self._enqueue, message)

    def _enqueue(self, message: Message) -> None:
        self._on_way.remove(message)
        queue = self.queues[message.queue]
        at = self.rng.randint(0, len(queue)) if self.rng.random() < 0.1 else len(queue)
        queue.insert(at, message)
        self.deliver()

    def deliver(self) -> None:
        """Give what waits to who is free."""
        for name, queue in self.queues.items():
            while queue and not self._world.faults.broker_is_away():
                # Who is stopped may have asked for one before.
                able = [
                    each
                    for each in self.consumers
                    if each.takes(name) and not (each.node.stopped and self.rng.random() < 0.7)
                ]
                if not able:
                    break
                consumer, message = self.rng.choice(able), queue.pop(0)
                consumer.free -= 1
                consumer.unacknowledged.append(message)
                delay = self.rng.random() * NETWORK_SECONDS
                self._world.loop.outside_later(delay, consumer.take, message)

    def acknowledge(self, consumer: Consumer, message: Message) -> None:
        """Forget a message whose work is done."""
        consumer.free += 1
        if message in consumer.unacknowledged:
            consumer.unacknowledged.remove(message)
        self.deliver()

    def cancel(self, consumer: Consumer) -> None:
        """Give a worker nothing more."""
        if consumer in self.consumers:
            self.consumers.remove(consumer)

    def lost(self, consumer: Consumer) -> None:
        """Deliver again what a worker had that died; or find it an hour later, which is never."""
        self.cancel(consumer)
        if self._world.redelivers:
            self.redeliver(consumer)

    def redeliver(self, consumer: Consumer) -> None:
        """Deliver again what a worker has, whatever it does with it: its connection was cut."""
        for message in consumer.unacknowledged:
            self._send(message, self.rng.random() * 5)
        consumer.unacknowledged.clear()


class _Signature:
    """A task of a chain, as Celery has it: what is published by it waits for the batch's end."""

    def __init__(self, tier: str) -> None:
        self._tier, self._queue = tier, ""

    def set(self, *, queue: str) -> _Signature:
        self._queue = queue
        return self

    @property
    def step(self) -> Step:
        return Step(self._tier, self._queue)

    def apply_async(
        self,
        args: tuple[list[tuple[str, int]]],
        *,
        chain: list[_Signature],
        producer: Any,
        **_: Any,
    ) -> None:
        steps = [self.step, *(each.step for each in reversed(chain))]
        producer.append(Message(steps, args[0]))


def chain(*signatures: _Signature, app: CeleryApp) -> Any:
    """Return what Celery's chain is to the publisher."""
    return SimpleNamespace(tasks=list(signatures))


class Template:
    """What the courier to the store takes for a route's messages: each names its steps."""

    channel = "celeryev/task.sent"

    def __init__(self, chains: Chains, route: Route) -> None:
        self.queue, self._kept = route.queue, []
        chains.publish(Parcel(route, []), self._kept)

    def around(self, its: Any, pairs: list[tuple[str, int]]) -> tuple[str, str]:
        (tier, _), *rest = self._kept[0].steps
        before, behind = json.dumps([[(tier, "its-queue"), *rest], pairs]).split("its-queue")
        return before, behind

    def event(self, *_: Any) -> str:
        return ""


class CeleryApp:
    """As much of Celery's application as the publisher uses."""

    clock = SimpleNamespace(forward=lambda: 0)

    def __init__(self, world: World, node: Node) -> None:
        self._world, self._node = world, node
        self.amqp = SimpleNamespace(
            queues={name: lambda _, name=name: _Depth(world, name) for name in world.broker.queues}
        )

    def signature(self, name: str) -> _Signature:
        """Return a task's signature."""
        return _Signature(name.removeprefix("tasks."))

    def attempt(self, work: Callable[[Any], Any]) -> Any:
        """Do a thread's work with the broker; raise what comes between."""
        faults, producer = self._world.faults, _Producer()
        if faults.broker_is_away():
            raise ConnectionRefusedError
        result = work(producer)
        for message in producer:
            self._world.broker.publish(message)
        if producer and faults.loses_confirm(self._world.broker.rng):
            raise ConnectionResetError
        return result


class _Producer(list):
    channel = None

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        yield


class _Depth:
    def __init__(self, world: World, name: str) -> None:
        self._queue = world.broker.queues[name]

    def queue_declare(self, *, passive: bool) -> Any:
        return SimpleNamespace(message_count=len(self._queue))


class SimulatedThread:
    """What the publisher takes for its thread: one call after the other, as steps of its process.

    A call that hangs never returns.
    """

    world: World  # set for each run

    def __init__(self, app: CeleryApp) -> None:
        self._app, self._node = app, current.get()
        self._waiting: deque[tuple[Callable[[Any], Any], Future[Any]]] = deque()
        self._began: float | None = None

    def start(self) -> SimulatedThread:
        return self

    def stop(self, seconds: float) -> None:
        pass

    def call(self, work: Callable[[Any], Any]) -> Future[Any]:
        result: Future[Any] = Future()
        self._waiting.append((work, result))
        self._next()
        return result

    def stuck(self, seconds: float) -> bool:
        return self._began is not None and time.monotonic() - self._began >= seconds

    def replace(self) -> SimulatedThread:
        new = SimulatedThread(self._app)
        new._waiting, self._waiting = self._waiting, deque()
        new._next()
        return new

    def _next(self) -> None:
        if self._began is not None or not self._waiting:
            return
        work, result = self._waiting.popleft()
        if not result.set_running_or_notify_cancel():
            self._next()
            return
        self._began = time.monotonic()
        if not self.world.faults.broker_hangs():
            delay = self.world.broker.rng.random() * NETWORK_SECONDS
            context = self._node.context
            self.world.loop.call_later(delay, self._do, work, result, context=context)

    def _do(self, work: Callable[[Any], Any], result: Future[Any]) -> None:
        try:
            value = self._app.attempt(work)
        except Exception as error:
            result.set_exception(PublishError(f"the broker did not answer: {error!r}"))
        else:
            result.set_result(value)
        self._began = None
        self._next()
