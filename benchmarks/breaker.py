"""What a breaker costs, beside pybreaker and purgatory in the same run.

In memory: µs of a call that does nothing, the best of several rounds. purgatory knows no time
limit; where ours keeps one, it is given asyncio's. With a store: 32 callers at once, each call of
1 ms; calls/s, and commands sent to the store a call.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from harness.valkey import ValkeyServer
from harness.waiting import free_port

from circuit_breaker import (
    AsyncRedisStore,
    CircuitBreaker,
    CircuitBreakerConfig,
    OneByOne,
    Outcome,
    Refusal,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS, CALLS = 200, 500  # in memory
CALLERS, CALLS_EACH, CALL_SECONDS = 32, 60, 0.001  # with a store
LIMIT_SECONDS = 5.0
# By which each sends what it has to say; what a script does on the server is no command of theirs.
SENT = ("evalsha", "eval", "get", "set", "setnx", "incr", "mget", "multi", "exec", "watch")


def measure() -> dict[str, float]:
    """Return the figures; raises ModuleNotFoundError without the peers (`./run` installs them)."""
    figures = {**_in_memory(), **asyncio.run(_in_memory_asynchronously())}
    with tempfile.TemporaryDirectory(prefix="fallthrough-bench-") as folder:
        valkey = ValkeyServer(Path(folder), free_port())
        valkey.start()
        try:
            figures["open_us"], figures["open_commands"] = asyncio.run(_refusals(valkey))
            for name, run in (
                ("store", lambda: asyncio.run(_ours(valkey))),
                ("store_pybreaker", lambda: _pybreaker_callers(valkey)),
                ("store_purgatory", lambda: asyncio.run(_purgatory(valkey))),
            ):
                figures[f"{name}_rate"], figures[f"{name}_commands"] = _counted(valkey, run)
        finally:
            valkey.kill()
    return figures


def _nothing() -> None:
    pass


async def _asynchronous_nothing() -> None:
    pass


def _pybreaker(**options: Any) -> Any:
    import pybreaker  # noqa: PLC0415 - a peer, of this benchmark alone

    return pybreaker.CircuitBreaker(**options)


def _in_memory() -> dict[str, float]:
    """Return the µs of a call, of the best round; the rounds take turns."""
    from purgatory import SyncCircuitBreakerFactory  # noqa: PLC0415 - as above

    ours, pybreaker, factory = CircuitBreaker("ours"), _pybreaker(), SyncCircuitBreakerFactory()

    def their_call() -> None:
        with factory.get_breaker("theirs"):
            _nothing()

    calls: dict[str, Callable[[], object]] = {
        "memory_us": lambda: ours.call_sync(_nothing),
        "memory_pybreaker_us": lambda: pybreaker.call(_nothing),
        "memory_purgatory_us": their_call,
    }
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began = time.perf_counter()
            for _ in range(CALLS):
                call()
            best[name] = min(best[name], (time.perf_counter() - began) / CALLS * 1e6)
    return best


async def _in_memory_asynchronously() -> dict[str, float]:
    """As above."""
    from purgatory import AsyncCircuitBreakerFactory  # noqa: PLC0415 - as above

    ours, factory = CircuitBreaker("ours"), AsyncCircuitBreakerFactory()

    async def their_call() -> None:
        async with asyncio.timeout(LIMIT_SECONDS), await factory.get_breaker("theirs"):
            await _asynchronous_nothing()

    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "memory_async_us": lambda: ours.call(_asynchronous_nothing),
        "memory_async_purgatory_us": their_call,
    }
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began = time.perf_counter()
            for _ in range(CALLS):
                await call()
            best[name] = min(best[name], (time.perf_counter() - began) / CALLS * 1e6)
    return best


async def _refusals(valkey: ValkeyServer) -> tuple[float, float]:
    """Return the µs of a refusal by an open breaker with a store, and the commands for all."""
    client = redis.asyncio.Redis(port=valkey.port)
    breaker = CircuitBreaker("open", store=AsyncRedisStore(OneByOne(client)))
    for _ in range(breaker.config.failure_threshold):
        permit = await breaker.acquire()
        assert not isinstance(permit, Refusal)  # noqa: S101 - else there is no figure
        await breaker.record(permit, Outcome.FAILURE)
    before, calls, best = _commands(valkey), 1_000, float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(calls):
            assert isinstance(await breaker.acquire(), Refusal)  # noqa: S101 - as above
        best = min(best, time.perf_counter() - began)
    sent = _commands(valkey) - before
    await client.aclose()
    return best / calls * 1e6, float(sent)


def _commands(valkey: ValkeyServer) -> int:
    with valkey.client() as client:
        stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in SENT)


def _counted(valkey: ValkeyServer, run: Callable[[], object]) -> tuple[float, float]:
    """Return calls/s, and commands a call."""
    before, began = _commands(valkey), time.perf_counter()
    run()
    seconds, calls = time.perf_counter() - began, CALLERS * CALLS_EACH
    return calls / seconds, (_commands(valkey) - before) / calls


async def _ours(valkey: ValkeyServer) -> None:
    client = redis.asyncio.Redis(port=valkey.port)
    # As the pipeline's are: with a window of calls, too, which every call writes to.
    config = CircuitBreakerConfig(failure_rate=0.5)
    breaker = CircuitBreaker("shared", config, AsyncRedisStore(OneByOne(client)))

    async def caller() -> None:
        for _ in range(CALLS_EACH):
            await breaker.call(asyncio.sleep, CALL_SECONDS)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    await client.aclose()


async def _purgatory(valkey: ValkeyServer) -> None:
    from purgatory import AsyncCircuitBreakerFactory, AsyncRedisUnitOfWork  # noqa: PLC0415

    uow = AsyncRedisUnitOfWork(f"redis://127.0.0.1:{valkey.port}")
    factory = AsyncCircuitBreakerFactory(uow=uow)
    await factory.initialize()

    async def caller() -> None:
        for _ in range(CALLS_EACH):
            async with asyncio.timeout(LIMIT_SECONDS), await factory.get_breaker("shared"):
                await asyncio.sleep(CALL_SECONDS)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    await uow.contexts.redis.aclose()


def _pybreaker_callers(valkey: ValkeyServer) -> None:
    import pybreaker  # noqa: PLC0415 - as above

    client = redis.Redis(port=valkey.port)
    storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client)
    breaker = _pybreaker(state_storage=storage)

    def caller() -> None:
        for _ in range(CALLS_EACH):
            breaker.call(time.sleep, CALL_SECONDS)

    callers = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    client.close()
