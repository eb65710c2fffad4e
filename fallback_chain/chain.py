"""The whole chain in one object, for a program that does not need the pipeline around it."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import msgspec

from circuit_breaker import (
    AsyncRedisStore,
    CircuitBreaker,
    CircuitBreakerConfig,
    MemoryStore,
    OneByOne,
    follow_changes,
)
from fallback_chain.answers import degraded_answer, text_of
from fallback_chain.body import Body
from fallback_chain.cache import CacheTier, MemoryCache, RedisCache, cache_key, pipelined
from fallback_chain.endpoints import TierOfEndpoints
from fallback_chain.errors import NoFormError, RequestRefusedError
from fallback_chain.http import read_authorities
from fallback_chain.httptools_http import HttptoolsHttp
from fallback_chain.needs import Needs
from fallback_chain.tier import BREAKER_NAMES, ChatTier, TierConfig, breaker_name
from fallback_chain.trial import Step, Trial, Verdict, next_step

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import httpx

    from circuit_breaker.stores import Store
    from fallback_chain.cache import AnswerCache
    from fallback_chain.http import Http
    from fallback_chain.needs import Need
    from fallback_chain.tier import Tier

TIERS = ("gpu", "cpu", "cache")
DEGRADED_MESSAGE = "The service is temporarily unable to answer. Please try again later."


@dataclass(frozen=True, slots=True)
class ChainOptions:
    """What may be tuned; times in seconds. A model of None is found from the server's list.

    …_accepts: what a request may need of a tier; None: anything. check_gpu: an answer of the GPU
    tier that does not fit its request is none, as one of the CPU tier's. strict_finish: tiers of
    which an answer must say why it ended. ca_file: certificates in PEM that are believed beside the
    system's.
    """

    gpu_model: str | None = None
    gpu_api_key: str | None = field(default=None, repr=False)
    gpu_timeout_seconds: float = 60.0
    cpu_model: str | None = None
    cpu_api_key: str | None = field(default=None, repr=False)
    cpu_timeout_seconds: float = 120.0
    connect_timeout_seconds: float = 2.0
    cache_ttl_seconds: float = 86_400.0
    gpu_accepts: frozenset[Need] | None = None
    cpu_accepts: frozenset[Need] | None = None
    check_gpu: bool = False
    strict_finish: frozenset[str] = frozenset({"gpu", "cpu"})
    ca_file: str = ""
    breaker: CircuitBreakerConfig = field(default_factory=CircuitBreakerConfig)


class FallbackChain:
    """GPU, CPU, cache, degraded: the first that can answers.

    redis_client: a redis.Redis or redis.asyncio.Redis (of Sentinel's and a cluster's the latter,
    else TypeError); its server then keeps the cache and the
    breakers, shared with every chain and worker on it. Without one, both are this object's own.
    What others change of the breakers is known within a second; at once in `async with`, which
    keeps a connection to the server for it.
    An endpoint may be several, parted by commas: each has a breaker of its own, and the least
    loaded that is well is asked. client: an httpx.AsyncClient that asks the servers, for
    authentication, certificates, proxies and hooks of the caller's own, who closes it. Raises
    TypeError for a client of another kind, OSError or ValueError for a ca_file without
    certificates.
    """

    def __init__(  # noqa: PLR0913 - what a program has at hand
        self,
        max_gpu_endpoint: str,
        ollama_cpu_endpoint: str | None = None,
        redis_client: Any = None,
        degraded_message: str = DEGRADED_MESSAGE,
        options: ChainOptions | None = None,
        *,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        options = options or ChainOptions()
        self._degraded_message = degraded_message
        self._redis = _asynchronous(redis_client)
        self._owns_redis = self._redis is not redis_client
        self._http = _http(options, client)
        self._counts: Counter[str] = Counter()
        store: Store = AsyncRedisStore(OneByOne(self._redis)) if self._redis else MemoryStore()
        configs = _model_configs(max_gpu_endpoint, ollama_cpu_endpoint or "", options)
        self.breakers = {
            name: CircuitBreaker(name, options.breaker, store)
            for name in breaker_names(TIERS, configs)
        }
        self._tiers = [build_tier(config, self.breakers, self._http) for config in configs]
        ttl = options.cache_ttl_seconds
        cache: AnswerCache = (
            RedisCache(pipelined(self._redis), ttl_seconds=ttl) if self._redis else MemoryCache(ttl)
        )
        self._cache = CacheTier(cache, self.breakers[BREAKER_NAMES["cache"]])
        self._following: asyncio.Task[None] | None = None

    async def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[dict[str, Any]] | None = None,
        **sampling: Any,
    ) -> dict[str, Any]:
        """Answer a prompt, or messages; sampling goes to the models as it is.

        Returns text, tier_used ("gpu", "cpu", "cache" or "degraded"), model, attempts,
        latency_ms, degraded, cache_age_seconds and answer, the whole chat completion. Raises
        RequestRefusedError when the request itself is at fault, NoFormError where no tier answered
        and the degraded message is not what was asked for, ValueError without a prompt.
        """
        if (prompt is None) == (messages is None):
            message = "give either a prompt or messages"
            raise ValueError(message)
        asked = messages if messages is not None else [{"role": "user", "content": prompt}]
        body = {**sampling, "messages": list(asked)}
        began = time.monotonic()
        trials = await self._fall_through(body)
        return self._result(trials, body, began)

    async def _fall_through(self, body: dict[str, Any]) -> list[Trial]:
        key = cache_key("default", body)
        trials: list[Trial] = []
        asked = Body.of(body)
        for tier in self._tiers:
            trial = await tier.ask(asked)
            trials.append(trial)
            step = next_step(trial.attempt.verdict)
            if step is Step.FINISH_ANSWER and trial.answer is not None:
                if trial.keep:
                    await self._cache.store(key, trial.answer, trial.model or "")
                return trials
            if step is Step.FINISH_ERROR:
                raise RequestRefusedError(trial.attempt.status or 400, trial.error or {})
        trials.append(await self._cache.look_up(key))
        return trials

    def _result(self, trials: list[Trial], body: dict[str, Any], began: float) -> dict[str, Any]:
        last = trials[-1]
        degraded = last.attempt.verdict is not Verdict.ANSWERED or last.answer is None
        tier_used = "degraded" if degraded else last.attempt.tier
        answer = last.answer
        if answer is None:
            if Needs.of(body).strict_form:
                raise NoFormError
            answer = degraded_answer(self._degraded_message, str(body.get("model") or ""))
        self._counts[tier_used] += 1
        return {
            "text": text_of(answer),
            "tier_used": tier_used,
            "model": last.model,
            "attempts": [
                msgspec.to_builtins(attempt) for trial in trials for attempt in trial.attempts
            ],
            "latency_ms": round((time.monotonic() - began) * 1000, 1),
            "degraded": degraded,
            "cache_age_seconds": last.cache_age_seconds,
            "answer": msgspec.json.decode(answer),
        }

    def statistics(self) -> dict[str, int]:
        """Return how many requests each tier answered."""
        return dict(self._counts)

    async def aclose(self) -> None:
        """Close the connections that this chain opened."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        await self._http.aclose()
        if self._owns_redis and self._redis is not None:
            await self._redis.aclose()

    async def __aenter__(self) -> Self:
        if self._redis is not None:
            following = follow_changes(self._redis, self.breakers.values())
            self._following = asyncio.create_task(following)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _http(options: ChainOptions, client: httpx.AsyncClient | None) -> Http:
    connect = options.connect_timeout_seconds
    if client is not None:
        from fallback_chain.httpx_http import HttpxHttp  # noqa: PLC0415 - only who uses it pays

        return HttpxHttp.of(client, connect)
    authorities = read_authorities(options.ca_file) if options.ca_file else b""
    return HttptoolsHttp(connect_timeout_seconds=connect, authorities=authorities)


def build_tier(config: TierConfig, breakers: Mapping[str, CircuitBreaker], http: Http) -> Tier:
    """Return a tier with its one server, or its several; breakers: by name."""
    servers = [ChatTier(each, breakers[each.breaker_name], http) for each in config.endpoints]
    return servers[0] if len(servers) == 1 else TierOfEndpoints(config, servers)


def breaker_names(tiers: Iterable[str], configs: Iterable[TierConfig]) -> list[str]:
    """Return the names of the breakers: of each tier's first server, and then of its others.

    tiers: all that have one, those without a server too.
    """
    own = [each.breaker_name for config in configs for each in config.endpoints]
    names = list(dict.fromkeys([*(breaker_name(tier, 1) for tier in tiers), *own]))
    firsts = [name for name in names if ":" not in name]
    return sorted(names, key=lambda name: firsts.index(name.partition(":")[0]))


def _model_configs(gpu_url: str, cpu_url: str, options: ChainOptions) -> list[TierConfig]:
    """Return the model tiers that have a URL, in the order in which they are tried."""
    configs = (
        TierConfig(
            name="gpu",
            url=gpu_url,
            model=options.gpu_model,
            api_key=options.gpu_api_key,
            timeout_seconds=options.gpu_timeout_seconds,
            strict_finish="gpu" in options.strict_finish,
            accepts=options.gpu_accepts,
            checked=options.check_gpu,
        ),
        TierConfig(
            name="cpu",
            url=cpu_url,
            model=options.cpu_model,
            api_key=options.cpu_api_key,
            timeout_seconds=options.cpu_timeout_seconds,
            strict_finish="cpu" in options.strict_finish,
            accepts=options.cpu_accepts,
            checked=True,
        ),
    )
    return [config for config in configs if config.url]


# Of a connection's settings, those that an asynchronous one has as well, besides those of TLS. Not
# decode_responses: what is kept is bytes.
_SHARED = {
    *("host", "port", "path", "db", "username", "password", "credential_provider", "client_name"),
    *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval"),
}


def _asynchronous(client: Any) -> Any:
    """Return an asynchronous client of the same server; the client itself if it is one.

    Raises TypeError for a client whose server cannot be told from its settings: Sentinel's, a
    cluster's, or one with a way to connect of its own.
    """
    if client is None:
        return None
    from redis import Redis  # noqa: PLC0415 - only a chain with a client needs it
    from redis import asyncio as asynchronous  # noqa: PLC0415 - as above

    if inspect.iscoroutinefunction(getattr(client, "execute_command", None)):
        return client
    if not isinstance(client, Redis):
        raise _unknown_client(client)
    kind, known = client.connection_pool.connection_class, client.connection_pool.connection_kwargs
    connection = getattr(asynchronous, kind.__name__, None)
    if kind.__module__ != "redis.connection" or connection is None:
        raise _unknown_client(client)
    of_tls = {name for name in known if name.startswith("ssl_")}
    taken = of_tls & set(inspect.signature(connection).parameters)
    if any(known[name] for name in of_tls - taken):  # OCSP, which it could not check
        raise _unknown_client(client)
    kwargs = {name: known[name] for name in taken | _SHARED if known.get(name) is not None}
    return asynchronous.Redis.from_pool(
        asynchronous.ConnectionPool(connection_class=connection, **kwargs)
    )


def _unknown_client(client: Any) -> TypeError:
    kind = type(client).__name__
    return TypeError(f"redis_client: give redis.asyncio's client instead of this {kind}")
