"""Where a breaker's state lives: in this process, or in Redis for a whole fleet.

A store answers (decision, view). Stores for Redis raise StoreError when it does not answer in
time. The keys are documented in lua/_state.lua.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol, cast

from circuit_breaker import machine as m
from circuit_breaker.errors import StoreError
from circuit_breaker.fork_lock import ForkLock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from redis import Redis

CHANNEL = "cb:changes"  # by pub/sub: what every script says that changed a state or a hold
KEPT_MS = 3_600_000  # least time that an idle breaker's state is kept
TIMEOUT_SECONDS = 0.5  # for an answer; a loop that is busy must not look like a store that is down
_SHARED = ("_state", "_rules", "_window", "_view", "_transitions")  # of every script, in this order
_STATES = {state.value: state for state in m.CircuitState}
_REFUSALS = {0: "open", -1: "held", -2: "half_open", -3: "ramping", -4: "forced_open"}

Decision = m.Permit | m.Refusal | bool  # of acquire: one of the first two; else the last
Answer = tuple[Decision, m.BreakerView]


class Store(Protocol):
    """The port: four operations on a breaker's state, each atomic. May answer awaitables.

    draw: a number from 0 to 1 that the caller drew by chance.
    """

    def acquire(
        self, name: str, rules: m.Rules, draw: float = m.MIDDLE
    ) -> Answer | Awaitable[Answer]:
        """Ask for a permit: Permit or Refusal."""

    def record(
        self,
        name: str,
        permit: m.Permit,
        report: m.Report,
        rules: m.Rules,
        draw: float = m.MIDDLE,
    ) -> Answer | Awaitable[Answer]:
        """Report an outcome: True, or False for a late one."""

    def override(self, name: str, change: m.Change) -> Answer | Awaitable[Answer]:
        """Do what an operator wants."""

    def view(self, name: str) -> Answer | Awaitable[Answer]:
        """Look at the breaker; changes nothing."""


def monotonic_ms() -> int:
    """Return this process's own clock."""
    return time.monotonic_ns() // 1_000_000


def new_token() -> str:
    """Return a random name for a permit or an epoch."""
    return os.urandom(8).hex()


def draw() -> float:
    """Return a number from 0 to 1, without 1, by chance; no two processes draw alike."""
    return int.from_bytes(os.urandom(6), "big") / 2**48


class MemoryStore:
    """State in this process, for any number of threads and loops."""

    def __init__(self, clock_ms: Callable[[], int] = monotonic_ms) -> None:
        self._clock = clock_ms
        self._machines: dict[str, m.Machine] = {}
        # Of those, the ones that a success does not change: nobody has to be asked then.
        self.calm: dict[str, m.Machine] = {}
        self._lock = ForkLock()

    def acquire(self, name: str, rules: m.Rules, draw: float = m.MIDDLE) -> Answer:
        """Ask for a permit."""
        return self._step(
            name, lambda s, now: m.acquire(s, new_token(), m.Moment(now, rules, draw)), rules
        )

    def record(
        self,
        name: str,
        permit: m.Permit,
        report: m.Report,
        rules: m.Rules,
        draw: float = m.MIDDLE,
    ) -> Answer:
        """Report an outcome."""
        return self._step(
            name, lambda s, now: m.record(s, permit, report, m.Moment(now, rules, draw)), rules
        )

    def override(self, name: str, change: m.Change) -> Answer:
        """Do what an operator wants."""
        return self._step(name, lambda s, now: (m.override(s, change, now), True))

    def view(self, name: str) -> Answer:
        """Look at the breaker."""
        return self._step(name, lambda s, _: (s, True))

    def machine(self, name: str) -> m.Machine | None:
        """Return a breaker's whole state, as it was after the last step."""
        return self._machines.get(name)

    def seed(self, name: str, view: m.BreakerView) -> None:
        """Begin from what was last seen of a shared breaker, an open one open until its time.

        One that ramps up after an outage goes on with that.
        """
        now = self._clock()
        closed = view.closed_seconds
        until = now + int(view.retry_after_seconds * 1000)
        opened = view.state is not m.CircuitState.CLOSED
        with self._lock:
            self.calm.pop(name, None)
            self._machines[name] = m.Machine(
                epoch=view.epoch,
                state=m.CircuitState.OPEN if opened else m.CircuitState.CLOSED,
                generation=view.generation,
                failures=view.consecutive_failures,
                open_until=until if opened else 0,
                hold_until=until if view.held else 0,
                hold_reason=view.hold_reason,
                opened=view.opened,
                closed_at=0 if closed is None else now - int(closed * 1000),
                override=view.override,
                by=view.by,
                why=view.why,
            )

    def _step(
        self,
        name: str,
        step: Callable[[m.Machine, int], tuple[m.Machine, Any]],
        rules: m.Rules | None = None,
    ) -> Answer:
        now = self._clock()
        with self._lock:
            before = self._machines.get(name) or m.Machine(new_token())
            after, decision = step(before, now)
            if after is not before:
                after = replace(after, version=before.version + 1)
                self.calm.pop(name, None)
            self._machines[name] = after
            if rules and m.is_calm(after, m.Moment(now, rules)):
                self.calm[name] = after
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
    return assembled({entry.name: entry.read_text() for entry in folder.iterdir()})


def assembled(texts: Mapping[str, str]) -> Mapping[str, Script]:
    """Return the scripts that files make, by name."""
    shared = "\n".join(texts[f"{name}.lua"] for name in _SHARED)
    found = {}
    for name in ("acquire", "record", "override", "view"):
        # A breaker is asked on a server at its memory limit too: its two keys hardly grow.
        source = "#!lua flags=allow-oom\n" + shared + "\n" + texts[f"{name}.lua"]
        sha1 = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        found[name] = Script(source, sha1)
    return found


@dataclass(frozen=True, slots=True)
class _Call:
    """A script call, and how its reply reads."""

    script: Script
    keys: Sequence[str]
    args: Sequence[str | float]
    token: str

    def read(self, reply: Sequence[Any]) -> Answer:
        decision, wait, view = int(reply[0]), int(reply[1]), _view(reply[2:])
        if not self.token:
            return bool(decision), view
        if decision > 0:
            return m.Permit(self.token, view.generation, view.epoch, probe=decision > 1), view
        return m.Refusal(view.state, wait / 1000, _REFUSALS[decision]), view


def _view(fields: Sequence[Any]) -> m.BreakerView:
    """Read what view() of the scripts tells."""
    state, generation, epoch, version, failures, successes, wait, held, reason = fields[:9]
    opened, closed_ms, calls, failed, slow, probes, lease_ms = map(int, fields[9:16])
    override, by, why, changed_ms = fields[16:]
    return m.BreakerView(
        state=_STATES[_text(state)],
        generation=int(generation),
        epoch=_text(epoch),
        version=int(version),
        consecutive_failures=int(failures),
        half_open_successes=int(successes),
        retry_after_seconds=int(wait) / 1000,
        held=bool(int(held)),
        hold_reason=_text(reason),
        opened=opened,
        closed_seconds=_seconds(closed_ms),
        calls=calls,
        failed_calls=failed,
        slow_calls=slow,
        probes=probes,
        lease_seconds=lease_ms / 1000,
        override=m.Override(_text(override)),
        by=_text(by),
        why=_text(why),
        changed_seconds=_seconds(int(changed_ms)),
    )


def _seconds(ms: int) -> float | None:
    return None if ms < 0 else ms / 1000


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def read_change(message: bytes | str) -> tuple[str, m.BreakerView] | None:
    """Return a breaker's name and view from a message of CHANNEL; None if it is none that we know.

    Programs of another version may share the channel.
    """
    try:
        name, fields = json.loads(message)
        return str(name), _view(fields)
    except (ValueError, TypeError, KeyError):
        return None


class _RedisCalls:
    """What is sent to Redis for each operation; how it is sent is the stores' own."""

    def __init__(self, clock_ms: Callable[[], int] | None = None) -> None:
        self._clock = clock_ms

    def _call(self, kind: str, name: str, ttl: int, *args: str | float, token: str = "") -> _Call:
        now = self._clock() if self._clock else -1
        keys = (f"cb:{{{name}}}:state", f"cb:{{{name}}}:probes")
        return _Call(scripts()[kind], keys, (now, ttl, *args), token)

    def _acquire(self, name: str, rules: m.Rules, draw: float) -> _Call:
        token = new_token()
        own = (repr(draw), rules.packed, token, new_token())
        return self._call("acquire", name, _ttl(rules), *own, token=token)

    def _record(
        self, name: str, permit: m.Permit, report: m.Report, rules: m.Rules, draw: float
    ) -> _Call:
        return self._call(
            "record",
            name,
            max(_ttl(rules), 2 * report.hold_ms),
            *(repr(draw), rules.packed, permit.token, permit.generation, permit.epoch),
            *(report.outcome.value, report.hold_ms, report.calls, report.slow),
        )

    def _override(self, name: str, change: m.Change) -> _Call:
        own = ("0", "", new_token(), change.action.value, change.by, change.why)
        return self._call("override", name, KEPT_MS, *own)

    def _view(self, name: str) -> _Call:
        return self._call("view", name, KEPT_MS, "0", "")


def _ttl(rules: m.Rules) -> int:
    longest = rules.longest_open_ms + rules.lease_ms + rules.saturation_hold_ms
    return max(KEPT_MS, 2 * (longest + rules.window_ms + rules.ramp_ms))


class RedisStore(_RedisCalls):
    """State in Redis through a synchronous client, whose own time limits count."""

    def __init__(self, redis: Redis, clock_ms: Callable[[], int] | None = None) -> None:
        super().__init__(clock_ms)
        self._redis = redis

    def acquire(self, name: str, rules: m.Rules, draw: float = m.MIDDLE) -> Answer:
        """Ask for a permit."""
        return self._send(self._acquire(name, rules, draw))

    def record(
        self,
        name: str,
        permit: m.Permit,
        report: m.Report,
        rules: m.Rules,
        draw: float = m.MIDDLE,
    ) -> Answer:
        """Report an outcome; never sent twice."""
        return self._send(self._record(name, permit, report, rules, draw))

    def override(self, name: str, change: m.Change) -> Answer:
        """Do what an operator wants, for the whole fleet."""
        return self._send(self._override(name, change))

    def view(self, name: str) -> Answer:
        """Look at the breaker."""
        return self._send(self._view(name))

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

    async def acquire(self, name: str, rules: m.Rules, draw: float = m.MIDDLE) -> Answer:
        """Ask for a permit."""
        return await self._send(self._acquire(name, rules, draw))

    async def record(
        self,
        name: str,
        permit: m.Permit,
        report: m.Report,
        rules: m.Rules,
        draw: float = m.MIDDLE,
    ) -> Answer:
        """Report an outcome; never sent twice."""
        return await self._send(self._record(name, permit, report, rules, draw))

    async def override(self, name: str, change: m.Change) -> Answer:
        """Do what an operator wants, for the whole fleet."""
        return await self._send(self._override(name, change))

    async def view(self, name: str) -> Answer:
        """Look at the breaker."""
        return await self._send(self._view(name))

    async def _send(self, call: _Call) -> Answer:
        from redis.exceptions import RedisError  # noqa: PLC0415 - optional package

        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._scripts.run(call.script, call.keys, call.args)
        except (RedisError, OSError, TimeoutError, RuntimeError) as error:
            raise StoreError(str(error)) from error
        return call.read(reply)
