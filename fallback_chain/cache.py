"""Answers given earlier, for when the models are away.

Redis keys: ft:cache:{hash}, a hash with answer (the chat completion, JSON), model, stored_at
(epoch seconds); each lives for the configured time.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from circuit_breaker import Refusal
from fallback_chain.body import Endpoint
from fallback_chain.errors import CacheFullError
from fallback_chain.trial import Attempt, Trial, Verdict, outcome_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from circuit_breaker import CircuitBreaker

# Fields that do not determine the answer. The model's name stays: who asks for another model
# does not want this one's words.
IRRELEVANT = frozenset({"stream", "stream_options", "user", "metadata", "store", "service_tier"})
PREFIX = "ft:cache:"
MEMORY_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer, as it was given. stored_at: epoch seconds."""

    answer: bytes
    model: str
    stored_at: float


def cache_key(owner: str, body: Mapping[str, Any], endpoint: str = Endpoint.CHAT) -> str:
    """Return a hash of all that determines the answer; one owner never gets another's."""
    relevant = {name: value for name, value in body.items() if name not in IRRELEVANT}
    of_another = [] if endpoint == Endpoint.CHAT else [endpoint]  # one body may suit several
    canonical = msgspec.json.encode([owner, relevant, *of_another], order="deterministic")
    return hashlib.sha256(canonical).hexdigest()


class AnswerCache(Protocol):
    """The port. May raise whatever its storage raises."""

    async def get(self, key: str) -> CachedAnswer | None:
        """Return the answer, or None."""

    async def put(self, key: str, answer: bytes, model: str) -> None:
        """Keep an answer."""


class MemoryCache:
    """Answers in this process: the latest so many, for so long."""

    def __init__(self, ttl_seconds: float = 86_400.0, entries: int = MEMORY_ENTRIES) -> None:
        self._ttl, self._entries = ttl_seconds, entries
        self._kept: OrderedDict[str, CachedAnswer] = OrderedDict()

    async def get(self, key: str) -> CachedAnswer | None:
        """Return the answer, or None."""
        found = self._kept.get(key)
        if found is not None and time.time() - found.stored_at > self._ttl:
            del self._kept[key]
            return None
        return found

    async def put(self, key: str, answer: bytes, model: str) -> None:
        """Keep an answer; the oldest goes when there are too many."""
        self._kept[key] = CachedAnswer(answer, model, time.time())
        self._kept.move_to_end(key)
        while len(self._kept) > self._entries:
            self._kept.popitem(last=False)


Send = Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]]


def pipelined(redis: Any) -> Send:
    """Return a function that sends commands over a redis.asyncio client, together."""

    async def send(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        pipeline = redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute())

    return send


class RedisCache:
    """Answers in Redis, for the whole fleet. send: see pipelined()."""

    def __init__(self, send: Send, *, ttl_seconds: float = 86_400.0, prefix: str = PREFIX) -> None:
        self._send, self._prefix = send, prefix
        self._ttl_ms = int(ttl_seconds * 1000)

    async def get(self, key: str) -> CachedAnswer | None:
        """Return the answer, or None."""
        [fields] = await self._send([("HMGET", self._prefix + key, "answer", "model", "stored_at")])
        answer, model, stored_at = (
            value.encode() if isinstance(value, str) else value for value in fields
        )
        if answer is None or stored_at is None:
            return None
        return CachedAnswer(answer, (model or b"").decode(), float(stored_at))

    async def put(self, key: str, answer: bytes, model: str) -> None:
        """Keep an answer; raise CacheFullError if the server is at its memory limit."""
        from redis.exceptions import OutOfMemoryError  # noqa: PLC0415 - optional package

        name, now = self._prefix + key, f"{time.time():.3f}"
        try:
            await self._send(
                [
                    ("HSET", name, "answer", answer, "model", model, "stored_at", now),
                    ("PEXPIRE", name, self._ttl_ms),
                ]
            )
        except OutOfMemoryError as error:
            message = "the server is at its memory limit"
            raise CacheFullError(message) from error


class CacheTier:
    """The cache as a tier, behind its own breaker; never raises."""

    name = "cache"

    def __init__(self, cache: AnswerCache, breaker: CircuitBreaker) -> None:
        self._cache = cache
        self.breaker = breaker

    async def look_up(self, key: str) -> Trial:
        """Look for an answer: ANSWERED, MISS, REJECTED or FAILURE."""
        began = time.monotonic()
        permit = await self.breaker.acquire()
        if isinstance(permit, Refusal):
            return self._trial(began, Verdict.REJECTED, permit.reason)
        verdict, found, detail = Verdict.CANCELLED, None, ""
        try:
            found = await self._cache.get(key)
            verdict = Verdict.ANSWERED if found else Verdict.MISS
        except Exception as error:  # noqa: BLE001 - whatever the storage raises
            verdict, detail = Verdict.FAILURE, type(error).__name__
        finally:
            await self.breaker.record(permit, outcome_of(verdict), wait=False)
        return self._trial(began, verdict, detail, found)

    async def store(self, key: str, answer: bytes, model: str) -> bool:
        """Keep an answer if that is possible; whether it was."""
        permit = await self.breaker.acquire()
        if isinstance(permit, Refusal):
            return False
        verdict = Verdict.CANCELLED
        try:
            await self._cache.put(key, answer, model)
            verdict = Verdict.ANSWERED
        except CacheFullError:  # it is well, and gives what it has
            verdict = Verdict.MISS
        except Exception:  # noqa: BLE001 - whatever the storage raises
            verdict = Verdict.FAILURE
        finally:
            await self.breaker.record(permit, outcome_of(verdict), wait=False)
        return verdict is Verdict.ANSWERED

    def _trial(
        self, began: float, verdict: Verdict, detail: str, found: CachedAnswer | None = None
    ) -> Trial:
        milliseconds = round((time.monotonic() - began) * 1000, 1)
        attempt = Attempt(self.name, verdict, milliseconds, detail)
        if found is None:
            return Trial(attempt)
        age = max(time.time() - found.stored_at, 0.0)
        return Trial(attempt, answer=found.answer, model=found.model, cache_age_seconds=age)
