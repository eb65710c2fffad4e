"""The store: a real Valkey with virtual time, and the socket that leads to it.

The server runs the product's scripts as they are, but for their clock, which is the simulation's.
What they let expire goes when the virtual time has come (TTL below), and what they publish goes to
the simulation's subscribers. Every trip to it is one synchronous exchange over a Unix socket: it
takes no virtual time, and nothing else happens meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import hiredis
import redis
from redis._parsers.base import BaseParser
from redis.exceptions import NoScriptError, RedisError

from circuit_breaker.stores import scripts as breaker_scripts
from simulation.loop import current
from tasks.store.autopipeline import Script
from tasks.store.connection import load_scripts
from tasks.store.migration import LAYOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from simulation.loop import Node
    from simulation.world import World

TTL = "{sim}:ttl"  # zset: key -> when it is gone
PUBLISHED = "{sim}:published"  # list: channel, message, ...
SENT = "{sim}:sent"  # list: messages for the broker's queues
ELSEWHERE = {"SCRIPT LOAD", "WAITAOF", "PUBLISH"}  # commands that the server never sees
ANSWER_SECONDS = 5.0  # what the product's client waits for an answer
NETWORK_SECONDS = 0.002  # what a message takes, most of the time
FAR = 30  # times as far away a store is in some runs

# In front of a script: its `redis` is this one. %d: which ARGV is the clock.
VIRTUAL = """
local real, T = redis, tonumber(ARGV[%d])
local function virtual(call)
  return function(command, key, ...)
    if command == 'PEXPIRE' or command == 'EXPIRE' then
      if real.call('EXISTS', key) == 0 then return 0 end
      local unit = command == 'EXPIRE' and 1000 or 1
      real.call('ZADD', '{sim}:ttl', T + tonumber((...)) * unit, key)
      return 1
    elseif command == 'PUBLISH' then
      real.call('RPUSH', '{sim}:published', key, (...))
      return 0
    elseif command == 'LPUSH' then
      real.call('RPUSH', '{sim}:sent', (...))
      return 1
    elseif command == 'DEL' then
      real.call('ZREM', '{sim}:ttl', key, ...)
    elseif command == 'SET' then
      local kept, ttl, options = {}, nil, { ... }
      local i = 1
      while i <= #options do
        if options[i] == 'PX' then
          ttl = tonumber(options[i + 1])
          i = i + 2
        else
          kept[#kept + 1] = options[i]
          i = i + 1
        end
      end
      local done = call('SET', key, unpack(kept))
      if done and ttl then
        real.call('ZADD', '{sim}:ttl', T + ttl, key)
      elseif done then
        real.call('ZREM', '{sim}:ttl', key)
      end
      return done
    end
    return call(command, key, ...)
  end
end
local redis = { call = virtual(real.call), pcall = virtual(real.pcall) }
"""
# Before each trip: what is past its time goes.
EXPIRE = """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
for _, key in ipairs(due) do
  redis.call('DEL', key)
  redis.call('ZREM', KEYS[1], key)
end
return #due
"""
# After a script: what was published, what was put into the broker's queues, and when the next key
# is past its time.
TAKE = """
local function taken(key)
  local entries = {}
  if redis.call('EXISTS', key) == 1 then
    entries = redis.call('LRANGE', key, 0, -1)
    redis.call('DEL', key)
  end
  return entries
end
local next = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
return { taken(KEYS[1]), taken(KEYS[3]), next[2] or 'inf' }
"""


def _error(text: str) -> Exception:
    """Return an error of the server's as redis-py's."""
    return BaseParser.parse_error(text)


class Server:
    """A Valkey that one simulation after the other uses."""

    def __init__(self, path: str, mutants: Mapping[str, str] | None = None) -> None:
        """path: of its Unix socket. mutants: script -> its text instead."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._reader = hiredis.Reader(replyError=_error)
        self._scripts: dict[str, Script] = {}  # the product's SHA-1 -> what runs instead
        self._clock_at: dict[str, int] = {}
        for name, script in load_scripts().items():
            self._load(script.sha1, (mutants or {}).get(name, script.source), 2)
        for script in breaker_scripts().values():
            self._load(script.sha1, script.source, 1)
        self._expire, self._take = Script.of(EXPIRE), Script.of(TAKE)
        for script in (self._expire, self._take):
            self.raw(("SCRIPT", "LOAD", script.source))
        self._callbacks = redis.Redis(protocol=2).response_callbacks
        self._known: set[str] = set()
        self._due_ms = 0.0  # no key is past its time before this one
        self.ran: set[str] = set()
        self.sent: Callable[[str], None] = print  # what takes a message for the broker

    def _load(self, sha1: str, source: str, clock_at: int) -> None:
        head, _, text = source.partition("\n") if source.startswith("#!") else ("", "", source)
        script = Script.of(f"{head}{VIRTUAL % clock_at}\n{text}" if head else VIRTUAL % 1 + text)
        self.raw(("SCRIPT", "LOAD", script.source))
        self._scripts[sha1], self._clock_at[sha1] = script, clock_at

    def raw(self, *commands: Sequence[Any]) -> list[Any]:
        """Run commands as they are; answers, or errors, in their order."""
        self._socket.sendall(b"".join(hiredis.pack_command(tuple(each)) for each in commands))
        answers: list[Any] = []
        while len(answers) < len(commands):
            answer = self._reader.gets()
            if answer is False:
                self._reader.feed(self._socket.recv(1 << 18))
            else:
                answers.append(answer)
        return answers

    def one(self, *command: Any) -> Any:
        """Run one command; raise its error."""
        return self.all([command])[0]

    def all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Run commands in one exchange; raise the first error."""
        answers = self.raw(*commands)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def empty(self) -> None:
        """Be as a new server that has been used by this release."""
        self.raw(("FLUSHDB",), ("SET", "{ft}:layout", LAYOUT))
        self._due_ms = 0.0
        self.forget_scripts()

    def forget_scripts(self) -> None:
        """Know no script, as after a restart."""
        self._known.clear()

    def run(
        self, now_ms: int, commands: Sequence[Sequence[Any]]
    ) -> tuple[list[Any], list[tuple[str, bytes]]]:
        """Run a client's commands at a time; return answers, and what was published."""
        sent: list[Sequence[Any]] = []
        missing = [False] * len(commands)
        for i, command in enumerate(commands):
            translated = self._translated(now_ms, command)
            missing[i] = translated is None
            sent.append(translated or ("PING",))
        due = now_ms >= self._due_ms
        changes = due or any(each[0] in {"EVALSHA", "ZADD"} for each in sent)
        if due:
            self.one("EVALSHA", self._expire.sha1, 1, TTL, now_ms)
        if changes:
            sent.append(("EVALSHA", self._take.sha1, 3, PUBLISHED, TTL, SENT))
        answers = self.raw(*sent)
        pairs: list[bytes] = []
        if changes:
            pairs, letters, next_due = answers.pop()
            for text in letters:
                self.sent(text.decode())
            self._due_ms = float(next_due)
        for i, command in enumerate(commands):
            answer = NoScriptError("NOSCRIPT") if missing[i] else answers[i]
            if not isinstance(answer, Exception) and command[0] in self._callbacks:
                answer = self._callbacks[command[0]](answer)
            answers[i] = answer
        messages = [(pairs[i].decode(), pairs[i + 1]) for i in range(0, len(pairs), 2)]
        return answers, messages

    def _translated(self, now_ms: int, command: Sequence[Any]) -> Sequence[Any] | None:
        """Return a client's command as it is run here; None for a script that is not known."""
        name, *args = command
        if name == "EVALSHA":
            sha1, number, *rest = args
            if sha1 not in self._known:
                return None
            self.ran.add(sha1)
            rest[number + self._clock_at[sha1] - 1] = now_ms
            return ("EVALSHA", self._scripts[sha1].sha1, number, *rest)
        if name == "PEXPIRE":
            return ("ZADD", TTL, now_ms + int(args[1]), args[0])
        return command

    def load(self, source: str) -> None:
        """Know a script of the product's."""
        self._known.add(Script.of(source).sha1)

    def snapshot(self) -> list[tuple[bytes, bytes]]:
        """Return all that is there."""
        keys = self.one("KEYS", "*")
        return list(zip(keys, self.raw(*(("DUMP", key) for key in keys)), strict=True))

    def restore(self, snapshot: Iterable[tuple[bytes, bytes]]) -> None:
        """Be as it was then, as after a restart that lost what came later."""
        self.raw(("FLUSHDB",), *(("RESTORE", key, 0, value) for key, value in snapshot))
        self._due_ms = 0.0
        self.forget_scripts()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Client:
    """What the product takes for redis-py's client: one process's way to the server."""

    def __init__(self, world: World, node: Node) -> None:
        self._world, self._node = world, node

    connection_pool = SimpleNamespace(connection_kwargs={})

    async def trip(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Send commands together; raise what redis-py does when no answer comes."""
        reply = self._world.loop.create_future()
        self._world.store_link.send(self._node, commands, reply)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await reply
        except TimeoutError:
            raise redis.TimeoutError("Timeout reading from socket") from None

    async def execute_command(self, *command: Any) -> Any:
        [answer] = await self.trip([command])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def pipeline(self, *, transaction: bool) -> Pipeline:
        return Pipeline(self, transaction=transaction)

    async def time(self) -> tuple[int, int]:
        await self.execute_command("PING")
        ms = self._world.server_ms()
        return ms // 1000, ms % 1000 * 1000

    async def info(self, section: str = "") -> dict[str, Any]:
        await self.execute_command("PING")
        return {"valkey_version": "9.0.0", "maxmemory": 0, "used_memory": 1, "aof_enabled": 1}

    async def config_get(self, name: str) -> dict[str, str]:
        await self.execute_command("PING")
        return {name: {"appendfsync": "always", "proto-max-bulk-len": "536870912"}[name]}

    async def ping(self) -> bool:
        await self.execute_command("PING")
        return True

    async def pubsub_numsub(self, *channels: str) -> list[tuple[str, int]]:
        await self.execute_command("PING")
        return [(channel, 0) for channel in channels]

    async def zrange(self, key: str, *_: Any, withscores: bool) -> list[Any]:
        return await self.execute_command("ZRANGE", key, 0, -1)

    def pubsub(self, *, push_handler_func: Any = None) -> Subscription:
        return Subscription(self._world, self._node)

    async def aclose(self) -> None:
        pass


class Pipeline:
    """Commands that travel together."""

    def __init__(self, client: Client, *, transaction: bool) -> None:
        self._client, self._commands = client, []
        self._transaction = transaction

    def evalsha(self, *args: Any) -> None:
        self._commands.append(("EVALSHA", *args))

    def execute_command(self, *command: Any) -> None:
        self._commands.append(command)

    async def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        # A trip is one step of the server's: it is a transaction anyway.
        answers = await self._client.trip(self._commands)
        if raise_on_error:
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers


class Subscription:
    """One process's subscription."""

    def __init__(self, world: World, node: Node) -> None:
        self._world, self.node = world, node
        self.channels: set[str] = set()
        self._messages: deque[dict[str, Any] | Exception] = deque()
        self._changed = asyncio.Event()
        self.connection = self  # what further channels are asked for by

    @property
    def is_connected(self) -> bool:
        return self in self._world.store_link.subscriptions

    async def send_command(self, command: str, channel: str) -> None:
        """Have a channel listened to, or no longer, when the command has arrived."""
        self._world.store_link.listen(self, command, channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._world.store_link.subscriptions.discard(self)

    async def subscribe(self, *channels: str) -> None:
        await Client(self._world, self.node).ping()
        self.channels.update(channels)
        self._world.store_link.subscriptions.add(self)

    async def ping(self) -> None:
        self._world.store_link.ping(self)

    def put(self, message: dict[str, Any] | Exception) -> None:
        if self.node.alive:
            self._messages.append(message)
            self._changed.set()

    async def get_message(self, *, timeout: float) -> dict[str, Any] | None:
        if not self._messages:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
        if not self._messages:
            return None
        message = self._messages.popleft()
        if isinstance(message, Exception):
            raise message
        return message


class StoreLink:
    """The network between the processes and the server, and what goes wrong there."""

    def __init__(self, world: World, server: Server) -> None:
        self._world, self._server = world, server
        server.sent = world.broker.read
        self._rng = world.rng("store")
        # Far away, what a step does elsewhere is often there before its answer is.
        self._distance = world.rng("distance").choice((1, 1, FAR))
        self.subscriptions: set[Subscription] = set()
        self.trips = 0
        self.late = 0  # exchanges that are still on their way to the store
        self._pending: list[asyncio.Future] = []  # replies that wait for the disk
        self.down = False  # nobody listens: connections are refused

    def send(self, node: Node, commands: Sequence[Sequence[Any]], reply: asyncio.Future) -> None:
        """Have commands arrive, run, and be answered; or not."""
        world, rng = self._world, self._rng
        fault = world.faults.on_store(node, rng)
        if fault == "refused" or self.down:
            self._later(_fail, reply, redis.ConnectionError("Connection refused"))
        elif fault == "reset":
            self._later(_fail, reply, redis.ConnectionError("Connection reset by peer"))
        elif fault == "late":
            self.late += 1
            world.loop.outside_later(rng.uniform(1, 20), self._arrive_late, commands, reply)
        elif fault != "lost":
            self._later(self._arrive, commands, reply, fault)

    def _later(self, callback: Any, *args: Any) -> None:
        # Nearly always at once; now and then something else overtakes it.
        delay = self._rng.random() * NETWORK_SECONDS * self._distance
        if self._rng.random() < 0.02:
            delay *= 100 / self._distance
        self._world.loop.outside_later(delay, callback, *args)

    def _arrive_late(self, commands: Sequence[Sequence[Any]], reply: asyncio.Future) -> None:
        self.late -= 1
        self._arrive(commands, reply, "")

    def _arrive(self, commands: Sequence[Sequence[Any]], reply: asyncio.Future, fault: str) -> None:
        if self.down:
            self._later(_fail, reply, redis.ConnectionError("Connection closed by server."))
            return
        kept = [("PING",) if self._is_elsewhere(each) else each for each in commands]
        self.trips += 1
        answers, published = self._server.run(self._world.server_ms(), kept)
        answers = [
            self._elsewhere(each) if self._is_elsewhere(each) else answer
            for each, answer in zip(commands, answers, strict=True)
        ]
        for command, answer in zip(commands, answers, strict=True):
            if command[0] == "WAITAOF" and not answer[0]:
                # The server answers when it has waited as long as it was asked to.
                self._pending.append(reply)
                self._world.loop.outside_later(command[3] / 1000, _settle, reply, answers)
                return
        for channel, message in published:
            self._publish(channel, message)
        if fault == "unanswered":
            return
        if fault == "cut":
            self._later(_fail, reply, redis.ConnectionError("Connection reset by peer"))
        else:
            self._later(_settle, reply, answers)

    def _is_elsewhere(self, command: Sequence[Any]) -> bool:
        """Whether the server never sees a command; some are of the broker's queues."""
        name, queues = command[0], self._world.broker.queues
        pushes = name == "EVAL" and command[3] in queues
        return name in ELSEWHERE or pushes or (name == "LLEN" and command[1] in queues)

    def _elsewhere(self, command: Sequence[Any]) -> Any:
        """Do such a command; return its answer."""
        name, broker = command[0], self._world.broker
        if name == "SCRIPT LOAD":
            self._server.load(command[1])
        elif name == "WAITAOF":
            return [int(self._world.disk_syncs()), 0]
        elif name == "EVAL":
            broker.read(command[-1])
        elif name == "LLEN":
            return len(broker.queues[command[1]])
        return 1

    def _publish(self, channel: str, data: bytes) -> None:
        message = {"type": "message", "channel": channel.encode(), "data": data}
        for each in self._in_order():
            if channel in each.channels and not self._world.faults.on_store(each.node, self._rng):
                self._later(each.put, message)

    def _in_order(self) -> list[Subscription]:
        return sorted(self.subscriptions, key=lambda each: (each.node.name, sorted(each.channels)))

    def ping(self, subscription: Subscription) -> None:
        """Answer a subscription that asks whether the server is there."""
        heard = subscription in self.subscriptions
        if (
            heard
            and not self.down
            and not self._world.faults.on_store(subscription.node, self._rng)
        ):
            self._later(subscription.put, {"type": "pong", "channel": b"", "data": b""})

    def listen(self, subscription: Subscription, command: str, channel: str) -> None:
        """Have a further channel listened to, or one no longer; "subscribe" confirms the first."""
        if not self.down and not self._world.faults.on_store(subscription.node, self._rng):
            self._later(self._listen, subscription, command, channel)

    def _listen(self, subscription: Subscription, command: str, channel: str) -> None:
        if subscription not in self.subscriptions:
            return
        if command == "UNSUBSCRIBE":
            subscription.channels.discard(channel)
            return
        subscription.channels.add(channel)
        self._later(subscription.put, {"type": "subscribe", "channel": channel.encode(), "data": 1})

    def restart(self) -> None:
        """Cut every connection, as a restart does."""
        for each in self._in_order():
            each.put(redis.ConnectionError("Connection closed by server."))
        for reply in self._pending:
            _fail(reply, redis.ConnectionError("Connection closed by server."))
        self.subscriptions.clear()
        self._pending.clear()


def _settle(reply: asyncio.Future, answers: list[Any]) -> None:
    if not reply.done():
        reply.set_result(answers)


def _fail(reply: asyncio.Future, error: RedisError) -> None:
    if not reply.done():
        reply.set_exception(error)


def client_of(world: World) -> Client:
    """Return the way to the store of the process that asks."""
    return Client(world, current.get())
