"""kombu's Redis transport, with three faults mended, and begun work first.

The faults are closed connections, a new client for every command, and messages that a worker which
stops has asked for and never looks at.
"""

from __future__ import annotations

import contextlib
from queue import Empty
from typing import Any

from kombu.entity import Queue
from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.scheduling import round_robin_cycle

from tasks.records.jobs import BEGUN

LOOK_SECONDS = 0.1  # how often a busy worker looks whether it may take fresh work again


class BegunFirst(round_robin_cycle):
    """The queues in the order in which a worker looks into them: fresh work in turn, and last."""

    begun_only = False

    def consume(self, n: int) -> list[str]:
        """Return the queues to look into now."""
        queues: list[str] = super().consume(n)  # type: ignore[no-untyped-call]
        begun = [queue for queue in queues if queue.endswith(BEGUN)]
        return begun if self.begun_only else begun + [q for q in queues if q not in begun]


class LimitedQueue(Queue):
    """A queue of RabbitMQ, of which a worker holds so many messages at most; 0: no limit.

    RabbitMQ gives a worker messages of every queue at once: without limits of their own, fresh work
    would take all its threads, and begun work wait behind it.
    """

    attrs = (*Queue.attrs, ("prefetch", None))  # type: ignore[assignment]
    prefetch = 0

    def consume(self, *arguments: Any, **options: Any) -> Any:
        """Begin to consume; what the channel was told before, it holds for the next consumer."""
        if self.prefetch:
            self.channel.basic_qos(0, self.prefetch, False)  # type: ignore[no-untyped-call]  # noqa: FBT003 - AMQP's signature
        return super().consume(*arguments, **options)  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    """A channel that says so when its connection is gone, and keeps its client.

    spare: messages of the prefetch that are kept free for begun work.
    """

    spare = 0
    queue_order_strategy = "tasks.broker.transport:BegunFirst"
    from_transport_options = (*redis.Channel.from_transport_options, "spare")  # type: ignore[assignment]
    _kept: tuple[Any, Any] | None = None  # the pool, and the client over it

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's
        # kombu makes a new client, with all its tables, for every command that it sends: a tenth
        # of what publishing costs. A client over a pool holds no connection, and any thread may
        # use it.
        if asynchronous:
            return super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
        pool = self.pool
        if self._kept is None or self._kept[0] is not pool:
            self._kept = pool, self.Client(connection_pool=pool)
        return self._kept[1]

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - kombu's signature
        # A slice that ends after the broker went away acknowledges over the connection it came by.
        # kombu trips over `None` there, and its AttributeError ends the whole worker; this error
        # is among `connection_errors`, which celery logs.
        if self.connection.client is None:
            msg = "the connection to the broker was lost"
            raise ConnectionResetError(msg)
        parameters: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        return parameters

    def _brpop_start(self, timeout: float | None = None) -> None:
        qos = self.qos
        # The rest of the prefetch is for fresh work, one of it at least.
        most = max(qos.prefetch_count - self.spare, 1)
        taken = len(qos._delivered) - len(qos._dirty)  # noqa: SLF001 - as its can_consume() does
        self._queue_cycle.begun_only = bool(self.spare and qos.prefetch_count and taken >= most)
        if self._queue_cycle.begun_only:
            timeout = LOOK_SECONDS
        super()._brpop_start(timeout)  # type: ignore[no-untyped-call]

    def let_go(self) -> None:
        """Wait for the pop that is under way, a second at most; what it brings goes back."""
        if self._in_poll:
            with contextlib.suppress(Empty, *self.connection_errors):
                self._brpop_read()  # type: ignore[no-untyped-call]


class Transport(redis.Transport):
    """The transport of redis:// and rediss:// URLs."""

    Channel = Channel


def use() -> None:
    """Have kombu take this transport wherever a URL says redis:// or rediss://."""
    ours = "tasks.broker.transport:Transport"
    TRANSPORT_ALIASES.update(redis=ours, rediss=ours)
