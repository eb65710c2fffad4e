"""One Redis: its client, the scripts, and its errors in our own words.

Every method raises StoreUnavailable when the store does not answer in time.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import aclosing, asynccontextmanager, suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

import hiredis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004
    OutOfMemoryError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from tasks.errors import (
    KeyReused,
    NoSuchCursor,
    SettingsError,
    StoreFull,
    StoreUnavailable,
    StoreUnfit,
)
from tasks.store import keyspace
from tasks.store.autopipeline import AutoPipeline, Script
from tasks.store.keyspace import PREFIX, PROBE
from tasks.store.short_memory import ALLOWED, allowed

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
        Mapping,
        Sequence,
    )

    ReadHashes = Callable[[Sequence[str]], Awaitable[list[dict[bytes, bytes]]]]

# What a server takes as one value, and where it says so.
LARGEST_VALUE, BULK_LENGTH = 512 * 1024 * 1024, "proto-max-bulk-len"
MEMORY_CEILING = 0.8  # share of maxmemory above which no new job is admitted
ADMITS = "-- admits"  # the line by which a script says that it takes new work
SERVER_CLOCK = -1
GONE_MS = 600_000  # for how long a list can go on after what has left it
CONFIRM_SECONDS = 1.0  # until who listens to a channel goes on without having been told so
LATE_SECONDS = 0.1  # after which the limit of an answer begins anew
SILENCE_SECONDS = 3.0  # after which a subscription is asked whether it still hears anything
# Scripts that take no job, no unit and no batch from one status to another: they are in no table.
STATELESS = frozenset(
    {
        *("renew_leases", "take_slot", "renew_holds", "admit_request"),
        *("take_share", "return_share"),
        *("begin_file", "keep_file", "delete_file", "count_files", "extend_claim"),
        *("measure_queues", "prune_lists", "note_tiers"),
        *("note_alone", "note_line", "append_streams", "leave_job", "read_results"),
        *("read_stream", "note_sample", "take_sample", "find_records"),
    }
)


def load_scripts() -> dict[str, Script]:
    """Return the scripts of lua/ by name."""
    folder = files("tasks.store") / "lua"
    texts = {entry.name: entry.read_text() for entry in folder.iterdir()}
    # What the scripts share; keys come first, as the others build on them.
    shared = (
        *("_keys", "_semaphores", "_limits", "_idempotency", "_tallies", "_files"),
        *("_unfinished", "_jobs", "_batches"),
    )
    prelude = "\n".join(texts[f"{name}.lua"] for name in shared)
    scripts = {}
    for file_name, text in texts.items():
        name, _, kind = file_name.partition(".")
        if kind == "lua" and not name.startswith("_"):
            # A store at its memory limit still lets every accepted job come to its end.
            head = "#!lua\n" if ADMITS in text.splitlines() else ALLOWED
            scripts[name] = Script.of(f"{head}{prelude}\n{text}")
    return scripts


class StoreClient(Redis):
    """A client that keeps a connection for what travels together; belongs to one event loop.

    redis-py's pipeline takes one from its pool for each trip, and a time limit for each answer: for
    twenty answers 0.3 ms of CPU, where this takes 0.14.
    """

    _kept: Any = None

    async def trip(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Have commands travel together; return their answers, an error in its place.

        One trip at a time. Raises what redis-py raises.
        """
        pool = self.connection_pool
        try:
            if self._kept is None:
                self._kept = await pool.get_connection()  # type: ignore[no-untyped-call]
            else:
                await pool.ensure_connection(self._kept)
            answers = await self._exchange(self._kept, commands)
        except (TimeoutError, RedisTimeoutError) as error:
            # The route may be lost without a word. So would those of the idle connections be, each
            # of which would have the next ones wait as long.
            await pool.disconnect(inuse_connections=False)
            message = "the store did not answer in time"
            raise RedisTimeoutError(message) from error
        return [self._read(*each) for each in zip(commands, answers, strict=True)]

    async def _exchange(self, connection: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Raise TimeoutError if an answer does not come in time, after the one before it."""
        answers: list[Any] = []
        seconds, now = connection.socket_timeout, time.monotonic
        try:
            async with asyncio.timeout(seconds) as limit:
                began = now()
                await connection.send_packed_command(connection.pack_commands(commands))
                for _ in commands:
                    if seconds and now() - began > LATE_SECONDS:
                        began = now()
                        limit.reschedule(asyncio.get_running_loop().time() + seconds)
                    try:
                        answers.append(await connection.read_response(timeout=math.inf))
                    except ResponseError as error:
                        answers.append(error)
        except BaseException:  # an answer that still comes must meet no other command
            await connection.disconnect(nowait=True)
            raise
        return answers

    def _read(self, command: Sequence[Any], answer: Any) -> Any:
        """Return an answer as redis-py has it."""
        read = self.response_callbacks.get(command[0])
        return answer if read is None or isinstance(answer, Exception) else read(answer)


def connect(url: str) -> StoreClient:
    """Return a client with time limits and no retries of its own; opens no connection yet.

    Raises SettingsError for a URL that the client cannot use.
    """
    try:
        pool = _pool(url)
        pool.make_connection()  # type: ignore[no-untyped-call]  # looks at all of its options
    except (RedisError, TypeError, ValueError):
        message = (
            "FALLTHROUGH_REDIS_URL: one of its options (those after the ?) is none that the "
            "client knows, or has a value that it cannot take"
        )
        raise SettingsError(message) from None
    return cast("StoreClient", StoreClient.from_pool(pool))


def _pool(url: str) -> BlockingConnectionPool:
    # Who finds every connection taken waits for one.
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        url,
        timeout=5,
        socket_connect_timeout=2,
        socket_timeout=4,  # twice that, and a lease would be over
        health_check_interval=0,
        retry=Retry(NoBackoff(), 0),
        max_connections=64,
        # With these on, redis-py hands out connections that a restarted server had closed.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    pool.connection_class = type("Connection", (_Sturdy, _PackingInC, pool.connection_class), {})
    return pool


class _PackingInC:
    """A connection that packs commands as redis-py's synchronous one does: by hiredis.

    Its asynchronous one packs argument by argument in Python: a twelfth of what the API did.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        """Pack one command. A name of several words (SCRIPT LOAD) is as many arguments."""
        if isinstance(args[0], str) and " " in args[0]:
            args = (*args[0].split(), *args[1:])
        return [hiredis.pack_command(args)]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Pack a pipeline."""
        return [b"".join(self.pack_command(*command)[0] for command in commands)]


class _Sturdy:
    """A connection whose transport raises nothing but the client's own errors.

    redis-py takes a time-out of the system's for the end of a reader's own patience. uvloop raises
    RuntimeError for a transport that was reset, which redis-py does not expect; and redis-py looks
    for an end of file before it uses a connection again, not for a transport that is closing.
    """

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        try:
            await super()._send_packed_command(command)  # type: ignore[misc]
        except (RuntimeError, AttributeError) as error:  # closed, or taken away, under our hands
            raise ConnectionResetError(*error.args) from error

    async def _read_response_from_parser(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super()._read_response_from_parser(*args, **kwargs)  # type: ignore[misc]
        except TimeoutError as error:  # the system's, of a route that is lost, and no limit of ours
            raise RedisTimeoutError(*error.args) from error

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read a reply."""
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except RuntimeError as error:
            await self.disconnect(nowait=True)
            raise ConnectionError(*error.args) from error

    async def can_read(self) -> bool:
        """Whether it must not be used again: something lies in it, or it is closing."""
        writer = self._writer
        closing = writer is None or writer.transport.is_closing()
        return closing or await super().can_read()  # type: ignore[misc]

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Close it, in whatever state it is."""
        try:
            await super().disconnect(*args, **kwargs)  # type: ignore[misc]
        except RuntimeError:
            self._reader = self._writer = None


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn whatever Redis and its client raise into StoreUnavailable, or what a script means."""
    try:
        yield
    except ResponseError as error:
        if str(error).startswith("REUSED"):
            message = "Idempotency-Key: it was used before, with another body"
            raise KeyReused(message) from error
        if isinstance(error, OutOfMemoryError):
            message = "the job store is full; try again when running work is done"
            raise StoreFull(message) from error
        message = f"the job store did not answer: {type(error).__name__}"
        raise StoreUnavailable(message) from error
    except (RedisError, OSError, TimeoutError) as error:
        message = f"the job store did not answer: {type(error).__name__}"
        raise StoreUnavailable(message) from error


class Connection:
    """What the five parts of the store share; belongs to one event loop.

    Keys are named without the prefix: it is put in front of them here.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = PREFIX,
        clock_ms: Callable[[], int] | None = None,
        scripts: Mapping[str, Script] | None = None,
    ) -> None:
        """clock_ms: now, instead of the server's clock."""
        # redis-py types every reply as whatever any of its modes may give; ours are bytes.
        self.client: Any = connect(url)
        self.pipeline = AutoPipeline(self.client)
        self._prefix = prefix
        self._clock_ms = clock_ms
        self._scripts = scripts or load_scripts()
        self._largest_value = LARGEST_VALUE  # bytes; check() looks

    def now(self) -> float:
        """Return the time (epoch s), by this process's clock."""
        return self._clock_ms() / 1000 if self._clock_ms else time.time()

    async def server_time(self) -> float:
        """Return the time (epoch s), by the server's clock: the scripts' own."""
        if self._clock_ms:
            return self.now()
        async with translated():
            seconds, microseconds = await self.client.time()
        return float(seconds + microseconds / 1_000_000)

    async def run(
        self, script: str, keys: Iterable[str], *args: Any, beside: Iterable[str] = ()
    ) -> Any:
        """Run one of lua/*.lua; what arrives while others are in flight travels together.

        keys: all that can be known now. beside: by their whole names, those that are not the
        store's own.
        """
        clock = self._clock_ms() if self._clock_ms else SERVER_CLOCK
        named = [*(self._prefix + key for key in keys), *beside]
        async with translated():
            return await self.pipeline.run(
                self._scripts[script], named, (self._prefix, clock, *args)
            )

    async def command(self, name: str, key: str, *args: Any) -> Any:
        """Run a command on one key; travels together with what is in flight, as scripts do."""
        async with translated():
            return await self.pipeline.command(*allowed((name, self._prefix + key, *args)))

    async def commands(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Run commands, each (name, key, …), and return their answers."""
        async with translated():
            return await self.pipeline.commands(self._named(commands))

    def _named(self, commands: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return [allowed((name, self._prefix + key, *rest)) for name, key, *rest in commands]

    async def outside(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Run commands on keys that are not the store's own, as commands() does."""
        async with translated():
            return await self.pipeline.commands([allowed(each) for each in commands])

    @property
    def database(self) -> int:
        """The number of the database."""
        return int(self.client.connection_pool.connection_kwargs.get("db", 0))

    async def hashes(self, keys: Sequence[str]) -> list[dict[bytes, bytes]]:
        """Return hashes whole."""
        return await self.commands(("HGETALL", key) for key in keys)

    async def page(  # noqa: PLR0913 - a list, and what of it
        self,
        index: str,
        record: Callable[[str], str],
        limit: int,
        after: str | None,
        *,
        oldest_first: bool = False,
        read: ReadHashes | None = None,
    ) -> tuple[list[dict[bytes, bytes]], bool]:
        """Return up to limit hashes that a zset lists, newest first; and whether more are.

        record: the key of the hash with an id. read: what reads hashes; None: whole. after: the
        last id seen; raises NoSuchCursor if it is not, and was not in the last minutes, in the
        list.
        """
        order = "Z" if oldest_first else "ZREV"
        start = 0 if after is None else await self.past(index, after, oldest_first=oldest_first)
        records: list[dict[bytes, bytes]] = []
        while len(records) <= limit:
            ids = await self.command(f"{order}RANGE", index, start, start + limit)
            if not ids:
                break
            hashes = await (read or self.hashes)([record(i.decode()) for i in ids])
            start += len(ids)
            records += [fields for fields in hashes if fields]  # others wait to be pruned
        return records[:limit], len(records) > limit

    async def past(self, index: str, after: str, *, oldest_first: bool = False) -> int:
        """Return how many of a list come before the place of an id, or are that id.

        Raises NoSuchCursor if it is not, and was not in the last minutes, in the list.
        """
        rank = await self.command("ZRANK" if oldest_first else "ZREVRANK", index, after)
        if rank is not None:
            return int(rank) + 1
        score = await self.command("GET", keyspace.gone(index, after))
        if score is None:
            raise NoSuchCursor
        at = score.decode()
        beyond = ("-inf", f"({at}") if oldest_first else (f"({at}", "+inf")
        there, beside = await self.commands(
            [("ZCOUNT", index, *beyond), ("ZRANGEBYSCORE", index, at, at)]
        )
        name = after.encode()
        return int(there) + sum((each < name) is oldest_first for each in beside)

    def named(self, key: str) -> str:
        """Return the whole name of a key, or of a channel."""
        return self._prefix + key

    def unnamed(self, key: str) -> str:
        """Return the name of a key, or of a channel, without its prefix."""
        return key.removeprefix(self._prefix)

    def subscription(self, *kinds: str) -> Subscription:
        """Return a subscription to events, as events() has them, and to further channels."""
        return Subscription(self, kinds)

    async def events(self, *kinds: str) -> AsyncIterator[tuple[str, str] | None]:
        """Yield (kind, id) of "finished" and "cancelled"; None first, once subscribed.

        Ends with StoreUnavailable when the connection is lost: what happened meanwhile is
        not told, so the listener looks at its records when it comes back (the next None).
        """
        async with aclosing(self.messages(*(self._prefix + kind for kind in kinds))) as messages:
            async for message in messages:
                yield message and (message[0].removeprefix(self._prefix), message[1])

    async def messages(self, *channels: str) -> AsyncGenerator[tuple[str, str] | None]:
        """Yield (channel, message) of channels by their whole names; else as events()."""
        async with translated(), self.client.pubsub() as pubsub:
            await pubsub.subscribe(*channels)
            yield None
            async for message in heard(pubsub):
                if message["type"] == "message":
                    yield message["channel"].decode(), message["data"].decode()

    async def check(self, *, is_broker: bool = False) -> None:
        """Raise StoreUnfit unless this server can keep jobs: version, eviction policy, one node.

        is_broker: Celery's queues are to lie on it as well.
        """
        server = await self._server()
        version = str(server.get("valkey_version") or server.get("redis_version", "0"))
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < (7, 2):
            message = f"the store is version {version}; Redis 7.2 or Valkey is needed"
            raise StoreUnfit(message)
        policy = server.get("maxmemory_policy", "noeviction")
        if int(server.get("maxmemory", 0)) and policy != "noeviction":
            message = (
                f"the store's maxmemory-policy is {policy}: it would drop jobs; set noeviction"
            )
            raise StoreUnfit(message)
        if int(server.get("cluster_enabled", 0)):
            await self._check_cluster(is_broker=is_broker)
        await self._look_at_largest()

    @property
    def largest_content(self) -> int:
        """Bytes of a body, or of an answer, that the server takes with a little around it."""
        return self._largest_value * 9 // 10

    async def _look_at_largest(self) -> None:
        """Find how large a value may be: a larger one would end its connection, again and again."""
        async with translated():
            with suppress(ResponseError):  # some that are managed do not tell
                told = await self.client.config_get(BULK_LENGTH)
                self._largest_value = int(told.get(BULK_LENGTH, LARGEST_VALUE))

    async def _check_cluster(self, *, is_broker: bool) -> None:
        async with translated():
            cluster: Mapping[str, str] = await self.client.execute_command("CLUSTER INFO")
        nodes = int(cluster["cluster_size"])
        if nodes > 1:
            message = (
                f"the store is a cluster in which {nodes} nodes own slots: several nodes are not "
                "supported; one may own them all"
            )
            raise StoreUnfit(message)
        if is_broker:
            message = (
                "the store is in cluster mode, where Celery's queues cannot lie: "
                "set FALLTHROUGH_BROKER_URL to another server"
            )
            raise StoreUnfit(message)

    async def _server(self) -> Mapping[str, Any]:
        try:
            async with translated():
                server: Mapping[str, Any] = await self.client.info()
                return server
        except StoreUnavailable as error:
            # Over a socket redis-py tells what it was answered as the cause of a lost connection.
            cause = error.__cause__
            while isinstance(cause, RedisError) and cause.__cause__:
                cause = cause.__cause__
            if isinstance(cause, ResponseError | AuthenticationError):
                reason = str(cause).partition(".")[0]
                message = f"the store refuses us: {reason}"
                raise StoreUnfit(message) from error
            raise

    async def has_room(self) -> bool:
        """Whether new jobs may be admitted: below 80 % of maxmemory."""
        async with translated():
            memory: Mapping[str, Any] = await self.client.info("memory")
        ceiling = int(memory.get("maxmemory", 0)) * MEMORY_CEILING
        return not ceiling or int(memory["used_memory"]) < ceiling

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers, and takes what is written to it.

        A replica, and a server that cannot write to its disk, would answer a PING.
        """
        async with translated():
            await self.client.delete(self._prefix + PROBE)

    async def close(self) -> None:
        """Close the connections."""
        await self.client.aclose()


async def heard(pubsub: Any) -> AsyncIterator[dict[str, Any]]:
    """Yield what a subscription is told; raises TimeoutError once its server is not there."""
    asked = False  # whether the server is still there, since it last said something
    while True:
        message = await pubsub.get_message(timeout=SILENCE_SECONDS)
        if message is not None:
            yield message
        elif asked:
            raise TimeoutError
        else:
            await pubsub.ping()
        asked = message is None


async def _as_it_came(message: Any) -> Any:
    """Return a message: redis-py's own way makes a line of log of each, which nobody reads."""
    return message


class Subscription:
    """Channels that are listened to over one connection, others of them at any time."""

    def __init__(self, connection: Connection, kinds: Iterable[str]) -> None:
        self._connection = connection
        self._fixed = [connection.named(kind) for kind in kinds]
        self._wanted: dict[str, asyncio.Future[None]] = {}  # with when it is there
        self._pubsub: Any = None

    async def add(self, name: str) -> None:
        """Listen to a channel, too; return when it is there, or the connection is lost."""
        channel = self._connection.named(name)
        there = self._wanted.get(channel)
        if there is None:
            there = self._wanted[channel] = asyncio.get_running_loop().create_future()
            await self._say("SUBSCRIBE", channel)
        with suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_SECONDS):
                await asyncio.shield(there)

    async def drop(self, name: str) -> None:
        """Listen to a channel no longer."""
        channel = self._connection.named(name)
        if self._wanted.pop(channel, None):
            await self._say("UNSUBSCRIBE", channel)

    async def _say(self, command: str, channel: str) -> None:
        connection = self._pubsub and self._pubsub.connection
        if connection and connection.is_connected:  # else all are asked for as it connects
            with suppress(StoreUnavailable):  # whoever listens notices, too
                async with translated():
                    await connection.send_command(command, channel)

    async def messages(self) -> AsyncGenerator[tuple[str, bytes] | None]:
        """Yield (channel, message); None first, once subscribed. Ends as events() does."""
        pushed = self._connection.client.pubsub(push_handler_func=_as_it_came)
        async with translated(), pushed as pubsub:
            self._pubsub = pubsub
            try:
                await pubsub.subscribe(*self._fixed, *self._wanted)
                yield None
                async for message in heard(pubsub):
                    channel = message["channel"] and message["channel"].decode()
                    if message["type"] == "message":
                        yield self._connection.unnamed(channel), message["data"]
                    elif message["type"] == "subscribe" and channel in self._wanted:
                        there = self._wanted[channel]
                        if not there.done():
                            there.set_result(None)
            finally:
                self._pubsub = None
