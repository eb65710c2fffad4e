"""Where a breaker's state lives: in this process, or in Redis for a whole fleet.

A store answers (decision, view). Stores for Redis raise StoreError when it does not answer in
time. The keys are documented in lua/_prelude.lua.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol, cast

from circuit_breaker import machine as m
from circuit_breaker.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from redis import Redis

KEPT_MS = 3_600_000  # least time that an idle breaker's state is kept
TIMEOUT_SECONDS = 0.5  # for an answer; a loop that is busy must not look like a store that is down
_REFUSALS = {0: "open", -1: "held", -2: "half_open"}

Decision = m.Permit | m.Refusal | bool  # of acquire: one of the first two; else the last
Answer = tuple[Decision, m.BreakerView]


class Store(Protocol):
    """The port: four operations on a breaker's state, each atomic. May answer awaitables."""

    def acquire(self, name: str, rules: m.Rules) -> Answer | Awaitable[Answer]:
        """Ask for a permit: Permit or Refusal."""

    def record(
        self, name: str, permit: m.Permit, outcome: m.Outcome, hold_ms: int, rules: m.Rules
    ) -> Answer | Awaitable[Answer]:
        """Report an outcome: True, or False for a late one."""

    def reset(self, name: str) -> Answer | Awaitable[Answer]:
        """Close the breaker."""

    def view(self, name: str) -> Answer | Awaitable[Answer]:
        """Look at the breaker; changes nothing."""


def monotonic_ms() -> int:
    """Return this process's own clock."""
    return time.monotonic_ns() // 1_000_000


def new_token() -> str:
    """Return a random name for a permit or an epoch."""
    return os.urandom(8).hex()


class MemoryStore:
    """State in this process, for any number of threads and loops."""

    def __init__(self, clock_ms: Callable[[], int] = monotonic_ms) -> None:
        self._clock = clock_ms
        self._machines: dict[str, m.Machine] = {}
        self._lock = threading.Lock()

    def acquire(self, name: str, rules: m.Rules) -> Answer:
        """Ask for a permit."""
        return self._step(name, lambda s, now: m.acquire(s, new_token(), now, rules))

    def record(
        self, name: str, permit: m.Permit, outcome: m.Outcome, hold_ms: int, rules: m.Rules
    ) -> Answer:
        """Report an outcome."""
        return self._step(name, lambda s, now: m.record(s, permit, outcome, hold_ms, now, rules))

    def reset(self, name: str) -> Answer:
        """Close the breaker."""
        return self._step(name, lambda s, _: (m.reset(s), True))

    def view(self, name: str) -> Answer:
        """Look at the breaker."""
        return self._step(name, lambda s, _: (s, True))

    def seed(self, name: str, view: m.BreakerView) -> None:
        """Begin from what was last seen of a shared breaker, an open one open until its time."""
        now = self._clock()
        until = now + int(view.retry_after_seconds * 1000)
        opened = view.state is not m.CircuitState.CLOSED
        with self._lock:
            self._machines[name] = m.Machine(
                epoch=view.epoch,
                state=m.CircuitState.OPEN if opened else m.CircuitState.CLOSED,
                generation=view.generation,
                failures=view.consecutive_failures,
                open_until=until if opened else 0,
                hold_until=until if view.held else 0,
                hold_reason=view.hold_reason,
            )

    def _step(self, name: str, step: Callable[[m.Machine, int], tuple[m.Machine, Any]]) -> Answer:
        now = self._clock()
        with self._lock:
            before = self._machines.get(name) or m.Machine(new_token())
            after, decision = step(before, now)
            self._machines[name] = after
        return decision, m.view(after, now)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the SHA-1 by which the server knows it."""

    source: str
    sha1: str


@cache
def scripts() -> Mapping[str, Script]:
    """Return the scripts by name."""
    folder = files("circuit_breaker") / "lua"
    prelude = (folder / "_prelude.lua").read_text()
    found = {}
    for name in ("acquire", "record", "reset", "view"):
        # A breaker is asked on a server at its memory limit too: its two keys hardly grow.
        source = "#!lua flags=allow-oom\n" + prelude + (folder / f"{name}.lua").read_text()
        sha1 = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        found[name] = Script(source, sha1)
    return found


@dataclass(frozen=True, slots=True)
class _Call:
    """A script call, and how its reply reads."""

    script: Script
    keys: Sequence[str]
    args: Sequence[str | int]
    token: str

    def read(self, reply: Sequence[Any]) -> Answer:
        state, epoch, reason = (_text(reply[i]) for i in (1, 3, 8))
        view = m.BreakerView(
            state=m.CircuitState(state),
            generation=int(reply[2]),
            epoch=epoch,
            consecutive_failures=int(reply[4]),
            half_open_successes=int(reply[5]),
            retry_after_seconds=int(reply[6]) / 1000,
            held=bool(int(reply[7])),
            hold_reason=reason,
        )
        decision = int(reply[0])
        if not self.token:
            return bool(decision), view
        if decision > 0:
            return m.Permit(self.token, view.generation, epoch, probe=decision > 1), view
        return m.Refusal(view.state, int(reply[9]) / 1000, _REFUSALS[decision]), view


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


class _RedisCalls:
    """What is sent to Redis for each operation; how it is sent is the stores' own."""

    def __init__(self, clock_ms: Callable[[], int] | None = None) -> None:
        self._clock = clock_ms

    def _call(self, kind: str, name: str, ttl: int, *args: str | int, token: str = "") -> _Call:
        now = self._clock() if self._clock else -1
        keys = (f"cb:{{{name}}}:state", f"cb:{{{name}}}:probes")
        return _Call(scripts()[kind], keys, (now, ttl, *args), token)

    def _acquire(self, name: str, rules: m.Rules) -> _Call:
        token = new_token()
        return self._call(
            "acquire",
            name,
            _ttl(rules),
            *(token, new_token(), rules.permits, rules.open_ms, rules.lease_ms, m.LOST_PROBES),
            token=token,
        )

    def _record(
        self, name: str, permit: m.Permit, outcome: m.Outcome, hold_ms: int, rules: m.Rules
    ) -> _Call:
        return self._call(
            "record",
            name,
            max(_ttl(rules), 2 * hold_ms),
            *(permit.token, permit.generation, permit.epoch, outcome.value, hold_ms),
            *(rules.failure_threshold, rules.success_threshold, rules.open_ms),
            rules.saturation_hold_ms,
        )


def _ttl(rules: m.Rules) -> int:
    return max(KEPT_MS, 2 * (rules.open_ms + rules.lease_ms + rules.saturation_hold_ms))


class RedisStore(_RedisCalls):
    """State in Redis through a synchronous client, whose own time limits count."""

    def __init__(self, redis: Redis, clock_ms: Callable[[], int] | None = None) -> None:
        super().__init__(clock_ms)
        self._redis = redis

    def acquire(self, name: str, rules: m.Rules) -> Answer:
        """Ask for a permit."""
        return self._send(self._acquire(name, rules))

    def record(
        self, name: str, permit: m.Permit, outcome: m.Outcome, hold_ms: int, rules: m.Rules
    ) -> Answer:
        """Report an outcome; never sent twice."""
        return self._send(self._record(name, permit, outcome, hold_ms, rules))

    def reset(self, name: str) -> Answer:
        """Close the breaker for the whole fleet."""
        return self._send(self._call("reset", name, KEPT_MS, new_token()))

    def view(self, name: str) -> Answer:
        """Look at the breaker."""
        return self._send(self._call("view", name, KEPT_MS))

    def _send(self, call: _Call) -> Answer:
        from redis.exceptions import NoScriptError, RedisError  # noqa: PLC0415 - optional package

        head: list[Any] = [len(call.keys), *call.keys, *call.args]
        try:
            try:
                reply = self._redis.evalsha(call.script.sha1, *head)
            except NoScriptError:  # then it did not run
                reply = self._redis.eval(call.script.source, *head)
        except (RedisError, OSError, RuntimeError) as error:
            raise StoreError(str(error)) from error
        return call.read(cast("Sequence[Any]", reply))


class AsyncScripts(Protocol):
    """Whatever runs scripts on Redis: OneByOne, or a client of the caller's that pipelines."""

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script once and return its reply."""


class OneByOne:
    """AsyncScripts over a plain redis.asyncio client."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script in a round trip of its own."""
        from redis.exceptions import NoScriptError  # noqa: PLC0415 - optional package

        try:
            return await self._redis.evalsha(script.sha1, len(keys), *keys, *args)
        except NoScriptError:
            return await self._redis.eval(script.source, len(keys), *keys, *args)


class AsyncRedisStore(_RedisCalls):
    """State in Redis through an asynchronous client; belongs to that client's event loop."""

    def __init__(
        self,
        scripts: AsyncScripts,
        clock_ms: Callable[[], int] | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        super().__init__(clock_ms)
        self._scripts = scripts
        self._timeout = timeout_seconds

    async def acquire(self, name: str, rules: m.Rules) -> Answer:
        """Ask for a permit."""
        return await self._send(self._acquire(name, rules))

    async def record(
        self, name: str, permit: m.Permit, outcome: m.Outcome, hold_ms: int, rules: m.Rules
    ) -> Answer:
        """Report an outcome; never sent twice."""
        return await self._send(self._record(name, permit, outcome, hold_ms, rules))

    async def reset(self, name: str) -> Answer:
        """Close the breaker for the whole fleet."""
        return await self._send(self._call("reset", name, KEPT_MS, new_token()))

    async def view(self, name: str) -> Answer:
        """Look at the breaker."""
        return await self._send(self._call("view", name, KEPT_MS))

    async def _send(self, call: _Call) -> Answer:
        from redis.exceptions import RedisError  # noqa: PLC0415 - optional package

        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._scripts.run(call.script, call.keys, call.args)
        except (RedisError, OSError, TimeoutError, RuntimeError) as error:
            raise StoreError(str(error)) from error
        return call.read(reply)
