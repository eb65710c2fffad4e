"""kombu's Redis transport: seven faults mended, begun work first, what is in hand kept in no book.

The faults are closed connections, a new client for every command, messages that a worker which
stops has asked for and never looks at, commands that a full server refuses, error replies that
end the worker, entries of a queue that are no messages and end it too, and connections that ended
and stay in the loop of one that goes on.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import ssl
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from celery.signals import task_rejected
from kombu.entity import Queue
from kombu.transport import TRANSPORT_ALIASES, pyamqp, redis, virtual
from kombu.utils.scheduling import round_robin_cycle
from kombu.utils.url import parse_url
from redis import Redis
from redis.client import Pipeline, PubSub
from redis.exceptions import ConnectionError, NoScriptError, ResponseError  # noqa: A004

from tasks.records.jobs import BEGUN
from tasks.store.short_memory import ALLOWED, allowed

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2  # between two looks for begun work of a worker that takes no fresh work now
EARLIER = "fallthrough_earlier"  # attribute of a loop: what the connection before registered
TIMERS = (
    *("_restore_messages_tref", "_subclient_health_tref", "_brpop_health_tref"),
    *("_reauth_tref", "_binding_expiry_tref"),
)
AT_ONCE = 0.001  # the shortest time that a pop waits, in seconds


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


class _Willing:
    """A client of a server that refuses what it is asked, as long as it does.

    What kombu writes serves work that was accepted: it runs on a server at its memory limit too.
    Celery takes an error reply (READONLY, MISCONF, NOREPLICAS, ...) for a defect and ends the
    worker, but waits for a connection that is lost. So that is what any such reply is here.
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return super().execute_command(*allowed(args), **options)  # type: ignore[misc]

    def parse_response(self, *args: Any, **options: Any) -> Any:
        with _lost_where_refused():
            return super().parse_response(*args, **options)  # type: ignore[misc]


@contextlib.contextmanager
def _lost_where_refused() -> Iterator[None]:
    try:
        yield
    except NoScriptError:  # whoever sent the digest sends the script now
        raise
    except ResponseError as error:
        message = f"the server refused: {type(error).__name__}: {error}"
        raise ConnectionError(message) from error


class _PubSub(PubSub):
    """The subscription of a channel: what it is refused is the answer to its own pings."""

    def parse_response(self, *args: Any, **options: Any) -> Any:
        with _lost_where_refused():
            return super().parse_response(*args, **options)  # type: ignore[no-untyped-call]


class _Pipeline(_Willing, Pipeline):
    """Several commands of a client's."""


class _Client(_Willing, Redis):
    """The client of a channel."""

    def pipeline(self, transaction: Any = True, shard_hint: Any = None) -> _Pipeline:  # noqa: FBT002 - redis-py's
        pool, callbacks = self.connection_pool, self.response_callbacks
        return _Pipeline(pool, callbacks, transaction, shard_hint)

    def pubsub(self, **options: Any) -> _PubSub:
        return _PubSub(self.connection_pool, **options)

    def register_script(self, script: Any) -> Any:
        return super().register_script(ALLOWED + script)


class QoS(virtual.QoS):
    """What a consumer has in hand, which it alone knows.

    kombu writes each message down for others to find, in an hour; two transactions of each. Here
    the records say what was begun, and what was sent and never begun.
    """

    def restore_unacked(self) -> list[Any]:
        """Put back what is in hand; what the broker does not take, the sweeper finds."""
        errors = super().restore_unacked()  # type: ignore[no-untyped-call]
        if errors:
            log.warning("%d messages could not be put back", len(errors))
        return []  # kombu would write them into a file


class Channel(redis.Channel):
    """A channel that says so when its connection is gone, and keeps its client.

    spare: messages of the prefetch that are kept free for begun work.
    """

    spare = 0
    _next_look = 0.0
    _read = False  # the entry that a pop brought could be read
    queue_order_strategy = "tasks.broker.transport:BegunFirst"
    from_transport_options = (*redis.Channel.from_transport_options, "spare")  # type: ignore[assignment]
    ack_emulation = False
    _kept: tuple[Any, Any] | None = None  # the pool, and the client over it

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]
        self.QoS = QoS  # type: ignore[assignment]  # kombu would take its own instead

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

    def _get_client(self) -> type[_Client]:
        return _Client

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
        self._forget_the_silent()
        qos = self.qos
        # The rest of the prefetch is for fresh work, one of it at least.
        most = max(qos.prefetch_count - self.spare, 1)
        taken = len(qos._delivered) - len(qos._dirty)  # noqa: SLF001 - as its can_consume() does
        self._queue_cycle.begun_only = bool(self.spare and qos.prefetch_count and taken >= most)
        if self._queue_cycle.begun_only:
            # A pop that waits for begun work would keep the worker from fresh work as long.
            if monotonic() < self._next_look:
                return
            self._next_look = monotonic() + LOOK_SECONDS
            timeout = AT_ONCE
        super()._brpop_start(timeout)  # type: ignore[no-untyped-call]

    def _forget_the_silent(self) -> None:
        # kombu gave the last pop up: its route was lost without a word. So were those of the other
        # connections, each of which would have the next command wait for an answer in turn.
        sent, pop_was_dropped = self._brpop_sent_at, self._in_poll is False
        if pop_was_dropped and sent is not None:
            silent = monotonic() - sent
            if silent > self.brpop_timeout + self.health_check_interval:
                self.pool.disconnect(inuse_connections=False)

    def _brpop_read(self, **options: Any) -> Any:
        self._read = False
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError) as error:
            if self._read:
                raise
            _drop(self, error)
            raise Empty from None

    def basic_consume(self, queue: str, *arguments: Any, **options: Any) -> Any:
        """Begin to consume; what is no message is dropped, and counted."""
        tag = super().basic_consume(queue, *arguments, **options)  # type: ignore[no-untyped-call]
        consume = self.connection._callbacks[queue]  # noqa: SLF001 - kombu keeps it there

        def consume_if_message(raw: Any) -> Any:
            self._read = True
            try:
                _check(raw, self)
            except (TypeError, ValueError, LookupError) as error:
                return _drop(self, error)
            return consume(raw)

        self.connection._callbacks[queue] = consume_if_message  # noqa: SLF001 - as above
        return tag

    def let_go(self) -> None:
        """Wait for the pop that is under way, a second at most; what it brings goes back."""
        if self._in_poll:
            with contextlib.suppress(Empty, *self.connection_errors):
                self._brpop_read()


def _check(raw: Any, channel: Channel) -> None:
    """Raise whatever reading an entry of a queue comes to if it is no message of kombu's."""
    properties, headers = raw["properties"], raw["headers"]
    where = properties["delivery_info"]
    for text in (properties["delivery_tag"], where["exchange"], where["routing_key"], raw["body"]):
        if not isinstance(text, str):
            raise TypeError(text)
    if not isinstance(headers, dict):
        raise TypeError(headers)
    channel.decode_body(raw["body"], properties.get("body_encoding"))  # type: ignore[no-untyped-call]


def _drop(channel: Channel, error: Exception) -> None:
    # Not what it says: it may be anything.
    log.warning("the broker held an entry that is no message: it is dropped")
    task_rejected.send(sender=channel, message=None, exc=error)


class Transport(redis.Transport):
    """The transport of redis:// and rediss:// URLs."""

    Channel = Channel

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have the loop look after this connection, and no more after the one before it.

        kombu forgets what the same transport had registered; a new connection has a new one.
        """
        cycle, ticks = getattr(loop, EARLIER, (None, set()))
        for name in TIMERS:
            timer = getattr(cycle, name, None)
            if timer is not None:
                timer.cancel()
                timer.fun = None  # it stays in its heap until its time, and would hold them all
        loop.on_tick -= ticks
        # What is left of it are cycles, with open files: the collector alone would take hours, as
        # a process of ours gives it little to look at (process.freeze_garbage).
        gc.collect()
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]
        setattr(loop, EARLIER, (self.cycle, loop.on_tick - before))


class Amqps(pyamqp.SSLTransport):
    """RabbitMQ over TLS: its certificate must be good, and its own, unless the URL says otherwise.

    Options of the URL as with Redis: ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs=none,
    ssl_check_hostname=false.
    """

    def establish_connection(self) -> Any:
        """Connect; of several brokers each is looked at by its own name."""
        client: Any = self.client
        given = client.ssl if isinstance(client.ssl, dict) else {}
        options = {name.removeprefix("ssl_"): value for name, value in given.items()}
        checks = options.setdefault("cert_reqs", ssl.CERT_REQUIRED) is not ssl.CERT_NONE
        if options.pop("check_hostname", True) and checks:
            options["server_hostname"] = client.hostname
        client.ssl = options
        try:
            return super().establish_connection()  # type: ignore[no-untyped-call]
        finally:
            client.ssl = given


def use() -> None:
    """Have kombu take these transports wherever a URL says redis://, rediss:// or amqps://."""
    ours = "tasks.broker.transport:Transport"
    TRANSPORT_ALIASES.update(redis=ours, rediss=ours, amqps="tasks.broker.transport:Amqps")


def tls_options(url: str) -> dict[str, Any] | None:
    """Return how a Redis over TLS is looked at, as its URL says or else strictly; None: no TLS."""
    if not url.startswith("rediss://"):
        return None
    # Flower, which knows no options of URLs, looks at these alone.
    told: dict[str, Any] = parse_url(url.partition(";")[0]).get("ssl", {})
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, **told}


_TLS = frozenset(
    f"ssl_{name}" for name in ("ca_certs", "certfile", "keyfile", "cert_reqs", "check_hostname")
)
OPTIONS = {"rediss": _TLS, "amqp": {"login_method"}, "amqps": {"login_method", *_TLS}}


def takes_options(url: str) -> bool:
    """Whether a broker's URL has such options alone as hold for all that read it.

    kombu knows others: with some a connection fails when it is made, or is looked at no more.
    """
    parts = urlsplit(url)
    names = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    return names <= OPTIONS.get(parts.scheme, set())
