"""Settings: read once from the environment, in an entry module, and passed down."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from tasks import setting_kinds as kinds
from tasks.errors import SettingsError
from tasks.setting_kinds import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "FALLTHROUGH_"
REDIS_PORT = 6379
HTTP_CLIENTS = ("auto", "aiohttp", "httpx")
EVERY_SECOND, ALWAYS = "everysec", "always"  # as the store's appendfsync
# What Kubernetes sets in every container for a Service whose name begins with "fallthrough".
_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT$|_PORT_\d+_(TCP|UDP)")
_KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://")  # the value of one that is a setting's name too
SEED_TIERS = ("gpu", "cpu")  # whose settings are fields of their own
# What no timer, no timeout and no script of the store can count any more lies above these.
HIGHEST_SECONDS = 1e9
HIGHEST_NUMBER = 2**53


def _setting(
    default: Any,
    about: str,
    *,
    low: float = 0,
    high: float | None = None,
    kind: kinds.Kind = kinds.TEXT,
) -> Any:
    bounds = {"low": low, "high": high}
    return field(default=default, metadata={"about": about, "kind": kind, **bounds})


class SettingRow(NamedTuple):
    """A setting as it is shown: secrets masked."""

    variable: str
    value: str
    default: str
    about: str


@dataclass(frozen=True, slots=True, repr=False)
class TierSettings:
    """What an operator can set of a model tier: FALLTHROUGH_<TIER>_ and the name in capitals."""

    url: str = _setting(
        "", "OpenAI API of its server, or of several; empty: none", kind=kinds.SERVERS
    )
    model: str = _setting("", "its model; empty: found from its /v1/models", kind=kinds.NAME)
    api_key: str = _setting("", "bearer key for its server", kind=kinds.KEY)
    timeout_seconds: float = _setting(60.0, "limit of one try", low=0.001)
    first_token_seconds: float = _setting(
        0.0, "limit of a stream until its first token; 0: that of one try", low=0
    )
    next_token_seconds: float = _setting(
        30.0, "limit of a stream from one token to the next", low=0.001
    )
    accepts: str = _setting(
        "",
        "what a request may need of it; embeddings: these alone; empty: anything",
        kind=kinds.OF_NEEDS,
    )
    check: int = _setting(0, "1: its answers, too, must be what was asked for", low=0)
    concurrency: int = _setting(64, "calls at once to it, per worker process", low=1)
    fleet_concurrency: int = _setting(
        0, "calls at once to it, whole fleet; 0: concurrency of each process", low=0
    )
    reserved: int = _setting(
        1, "calls to it that batches leave free for interactive requests", low=0
    )
    limit: str = _setting(
        "",
        "calls at once to it, whole fleet, as many as its server bears: lowest..highest; empty: "
        "concurrency, or fleet_concurrency",
        kind=kinds.LIMITS,
    )
    slow_seconds: float = _setting(
        0.0, "an answer that takes longer lowers limit; 0: none does", low=0
    )
    priority: str = _setting(
        "off",
        "how its server is told how urgent a call is: vllm, dynamo, smg, llm-d, off",
        kind=kinds.PRIORITY,
    )
    wait_seconds: float = _setting(
        10.0, "how long a job waits for a free call at it, if a tier before it is set up", low=0
    )

    @property
    def calls_here(self) -> int:
        """Calls at once of a worker process; 1 where the whole fleet has a number of its own."""
        return 1 if self.fleet_concurrency else self.concurrency

    def rows(self, tier: str) -> list[SettingRow]:
        """Return every setting of a tier as it is shown."""
        return [_row(_variable(f"{tier}_{f.name}"), f, self) for f in dataclasses.fields(self)]


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """What an operator can set. Each field is read from FALLTHROUGH_ and its name in capitals.

    But for more_tiers: what is set of the tiers that are named beside the seed's two.
    """

    redis_url: str = _setting(
        "redis://127.0.0.1:6379/0",
        "Redis >= 7.2 or Valkey that keeps the job records",
        kind=kinds.STORE,
    )
    broker_url: str = _setting(
        "",
        "Celery's broker; empty: the same as redis_url",
        kind=kinds.BROKER,
    )
    durable: str = _setting(
        EVERY_SECOND,
        "always: accept only what is on disk; everysec: a store that dies may lose its newest",
    )
    durable_replicas: int = _setting(
        0, "accept only what so many replicas of the store have", low=0
    )
    tiers: str = _setting(
        "gpu,cpu",
        "names of the model tiers, in the order in which a job falls through them; each further "
        "one has settings FALLTHROUGH_<TIER>_URL …",
        kind=kinds.ORDER,
    )
    gpu_url: str = _setting(
        "",
        "OpenAI API of the GPU server, or of several, separated by commas; empty: none",
        kind=kinds.SERVERS,
    )
    gpu_model: str = _setting(
        "", "model of the GPU tier; empty: found from its /v1/models", kind=kinds.NAME
    )
    gpu_api_key: str = _setting("", "bearer key for the GPU server", kind=kinds.KEY)
    gpu_timeout_seconds: float = _setting(60.0, "limit of one try at the GPU tier", low=0.001)
    gpu_first_token_seconds: float = _setting(
        0.0, "limit of a stream of the GPU tier until its first token; 0: that of one try", low=0
    )
    gpu_next_token_seconds: float = _setting(
        30.0, "limit of a stream of the GPU tier from one token to the next", low=0.001
    )
    gpu_accepts: str = _setting(
        "",
        "what a request may need of the GPU tier: schema, json, tools, images, audio, video, "
        "files, n, logprobs; text: none of them; embeddings: these alone; empty: anything",
        kind=kinds.OF_NEEDS,
    )
    gpu_concurrency: int = _setting(64, "calls at once to the GPU tier, per worker process", low=1)
    gpu_limit: str = _setting(
        "",
        "calls at once to the GPU tier, whole fleet, as many as its server bears: lowest..highest; "
        "empty: gpu_concurrency of each process",
        kind=kinds.LIMITS,
    )
    gpu_reserved: int = _setting(
        0,
        "calls to the GPU tier that batches leave free for interactive requests; with gpu_limit at "
        "least a tenth of it",
        low=0,
    )
    gpu_slow_seconds: float = _setting(
        0.0, "an answer of the GPU tier that takes longer lowers gpu_limit; 0: none does", low=0
    )
    gpu_priority: str = _setting(
        "off",
        "how the GPU tier's server is told how urgent a call is: vllm, dynamo, smg, llm-d, off",
        kind=kinds.PRIORITY,
    )
    cpu_url: str = _setting(
        "",
        "OpenAI API of the CPU server, or of several, separated by commas; empty: none",
        kind=kinds.SERVERS,
    )
    cpu_model: str = _setting(
        "", "model of the CPU tier; empty: found from its /v1/models", kind=kinds.NAME
    )
    cpu_api_key: str = _setting("", "bearer key for the CPU server", kind=kinds.KEY)
    cpu_timeout_seconds: float = _setting(120.0, "limit of one try at the CPU tier", low=0.001)
    cpu_first_token_seconds: float = _setting(
        0.0, "limit of a stream of the CPU tier until its first token; 0: that of one try", low=0
    )
    cpu_next_token_seconds: float = _setting(
        30.0, "limit of a stream of the CPU tier from one token to the next", low=0.001
    )
    cpu_accepts: str = _setting(
        "",
        "what a request may need of the CPU tier, in the words of gpu_accepts; of the embedded "
        "model: text",
        kind=kinds.OF_NEEDS,
    )
    check_gpu: int = _setting(
        0, "1: an answer of the GPU tier, too, must be what was asked for", low=0
    )
    strict_finish: str = _setting(
        "1",
        "tiers whose answers must say why they ended: 1 is all, 0 none, gpu or cpu one",
    )
    cpu_concurrency: int = _setting(2, "calls at once to the CPU tier, whole fleet", low=1)
    cpu_limit: str = _setting(
        "",
        "calls at once to the CPU tier, whole fleet, as many as its server bears: lowest..highest; "
        "empty: cpu_concurrency",
        kind=kinds.LIMITS,
    )
    cpu_reserved: int = _setting(
        1, "calls to the CPU tier that batches leave free for interactive requests", low=0
    )
    cpu_slow_seconds: float = _setting(
        0.0, "an answer of the CPU tier that takes longer lowers cpu_limit; 0: none does", low=0
    )
    cpu_priority: str = _setting(
        "off",
        "how the CPU tier's server is told how urgent a call is: vllm, dynamo, smg, llm-d, off",
        kind=kinds.PRIORITY,
    )
    cpu_wait_seconds: float = _setting(
        10.0, "how long a job waits for a free call at the CPU tier, if a GPU tier is set up", low=0
    )
    connect_timeout_seconds: float = _setting(2.0, "limit to reach a tier's server", low=0.001)
    http_client: str = _setting(
        "auto",
        "what asks model servers: auto costs the least, and goes by aiohttp through a proxy; or "
        "aiohttp, or httpx, for all",
    )
    ca_file: str = _setting(
        "",
        "certificate authorities of model servers, in PEM, trusted beside the system's",
        kind=kinds.PATH,
    )
    proxy: str = _setting(
        "",
        "proxy on the way to model servers, and of the command line to the API; empty: none",
        kind=kinds.PROXY,
    )
    no_proxy: str = _setting(
        "",
        "hosts, domains, networks that are reached without the proxy; loopback always is",
        kind=kinds.EXCEPTIONS,
    )
    degraded_message: str = _setting(
        "The service is temporarily unable to answer. Please try again later.",
        "the answer when every tier failed",
    )
    breaker_failure_threshold: int = _setting(3, "failures in a row that open a breaker", low=1)
    breaker_recovery_seconds: float = _setting(30.0, "open time before a probe", low=0.001)
    breaker_success_threshold: int = _setting(2, "probes that must succeed to close", low=1)
    breaker_failure_rate: float = _setting(
        0.5, "a breaker opens when this share of the recent calls fails; 0: never", high=1
    )
    breaker_slow_call_seconds: float = _setting(
        0.0, "a call that takes this long is slow; 0: none is", low=0
    )
    breaker_slow_call_rate: float = _setting(
        0.5, "a breaker opens when this share of the recent calls is slow", high=1
    )
    breaker_window_seconds: float = _setting(30.0, "how far back the recent calls go", low=0.1)
    breaker_minimum_calls: int = _setting(
        20, "with fewer recent calls those shares open nothing", low=1
    )
    breaker_recovery_multiplier: float = _setting(
        1.5, "a breaker that opens again stays open so many times as long as before", low=1, high=10
    )
    breaker_recovery_cap_seconds: float = _setting(
        60.0, "the longest open time; breaker_recovery_seconds, if that is longer", low=0
    )
    breaker_recovery_jitter: float = _setting(
        0.1, "share by which an open time varies by chance", high=1
    )
    breaker_ramp_seconds: float = _setting(
        5.0, "time after an outage until a tier gets every call again; 0: at once", low=0
    )
    breaker_saturation_seconds: float = _setting(
        60.0,
        "a server that says nothing but that it is busy for so long counts as failing; 0: never",
        low=0,
    )
    probe_models: int = _setting(
        1,
        "1: where no job can probe a tier that is due, it is asked for its models; 0: it waits",
        low=0,
    )
    silent_tier_seconds: float = _setting(
        180.0,
        "a tier that is asked for so long and answers nothing, while others do, is reported",
        low=1,
    )
    cache_ttl_seconds: int = _setting(86_400, "how long an answer stays in the cache", low=1)
    result_ttl_seconds: int = _setting(86_400, "how long a finished job is kept", low=1)
    kept_request_bytes: int = _setting(
        4_096,
        "a job's request of at most so many bytes is kept as long as its answer; 0: none is",
        low=0,
        high=65_536,
    )
    stream_ttl_seconds: int = _setting(
        600, "how long a stream can be followed again from any place, after its last words", low=1
    )
    stream_deadline_seconds: float = _setting(
        600.0,
        "deadline of a streamed completion; its first word comes within chat_deadline_seconds",
        low=0.001,
    )
    chat_deadline_seconds: float = _setting(
        120.0, "deadline of a completion that is not streamed", low=0.001
    )
    job_deadline_seconds: float = _setting(86_400.0, "deadline of a job", low=0.001)
    lease_seconds: float = _setting(8.0, "lease of a running job; renewed four times within", low=1)
    sweep_seconds: float = _setting(2.0, "time between two sweeps", low=0.1)
    dispatch_grace_seconds: float = _setting(
        10.0,
        "how long a message may stay unbegun before it is looked for; doubles, to 30 s at most",
        low=1,
    )
    files_url: str = _setting(
        "",
        "where files lie: a folder, or any URL that fsspec knows (s3://bucket/path)",
        kind=kinds.PLACE_OF_FILES,
    )
    batch_window: int = _setting(
        32, "slices in flight at once, of all batches; each batch has at least one", low=1
    )
    slice_lines: int = _setting(128, "lines of a batch in one slice, at most", low=1)
    batch_tiers: str = _setting(
        "",
        "tiers that may answer a batch which does not say: gpu, cpu, cache; empty: all",
    )
    drain_seconds: float = _setting(20.0, "time that running calls get after SIGTERM", low=0)
    max_body_bytes: int = _setting(4 * 1024 * 1024, "largest request body", low=1024)
    max_bytes_in_flight: int = _setting(
        64 * 1024 * 1024,
        "bytes of request bodies, and of pages of results, that an API process holds at once; one "
        "owner's: half",
        low=1024,
    )
    max_upload_bytes: int = _setting(
        2 * 1024**3,
        "bytes of uploads that an API process has in its temporary folder at once; one owner's: "
        "half",
        low=1024,
    )
    api_keys: str = _setting(
        "", "API keys: owner=key, comma-separated; owner!=key for an admin", kind=kinds.KEYS
    )
    keys_file: str = _setting("", "file of API keys, made by `fallthrough keys`", kind=kinds.PATH)
    client_seconds: float = _setting(
        10.0, "limit for a request's head to arrive, and between two pieces of its body", low=0.1
    )
    allowed_hosts: str = _setting(
        "",
        "names by which a server on loopback without keys may be called; *: any",
        kind=kinds.NAMES,
    )
    cors_origins: str = _setting(
        "",
        "origins whose pages may call the API from a browser, as https://a.example; *: any",
        kind=kinds.ORIGINS,
    )
    allow_no_keys: int = _setting(0, "1: serve the network without API keys", low=0)
    key_requests_per_minute: int = _setting(0, "requests a minute of one owner; 0: any", low=0)
    key_concurrency: int = _setting(0, "requests at once of one owner; 0: any", low=0)
    max_queued_jobs: int = _setting(100_000, "jobs unfinished at once; 0: any", low=0)
    key_queued_jobs: int = _setting(0, "jobs of one owner unfinished at once; 0: any", low=0)
    max_queued_bytes: int = _setting(
        256 * 1024 * 1024, "bytes of the bodies of jobs unfinished at once; 0: any", low=0
    )
    key_queued_bytes: int = _setting(
        0, "bytes of the bodies of one owner's jobs unfinished at once; 0: any", low=0
    )
    max_batches: int = _setting(1_000, "batches unfinished at once; 0: any", low=0)
    key_batches: int = _setting(0, "batches of one owner unfinished at once; 0: any", low=0)
    max_files: int = _setting(100_000, "files kept at once, results too; 0: any", low=0)
    key_files: int = _setting(0, "files of one owner kept at once; 0: any", low=0)
    max_stored_bytes: int = _setting(
        50 * 1024**3, "bytes of all files kept at once, results too; 0: any", low=0
    )
    key_stored_bytes: int = _setting(0, "bytes of one owner's files kept at once; 0: any", low=0)
    host: str = _setting("127.0.0.1", "address that the API listens on", kind=kinds.HOST)
    port: int = _setting(8000, "port of the API", low=0)
    api_processes: int = _setting(1, "processes that share the API's port", low=1, high=256)
    worker_host: str = _setting("127.0.0.1", "address of a worker's health port", kind=kinds.HOST)
    worker_port: int = _setting(0, "health port of a worker; 0 picks a free one", low=0)
    worker_queues: str = _setting("interactive,batch", "queues that a worker consumes")
    worker_threads: int = _setting(
        0, "slices at once in a worker process; 0: what its queues want", low=0
    )
    api_url: str = _setting(
        "http://127.0.0.1:8000", "where the command line finds the API", kind=kinds.SERVER
    )
    api_key: str = _setting("", "the key that the command line sends", kind=kinds.KEY)
    flower_url: str = _setting(
        "", "where people find Flower: the web page links to it", kind=kinds.LINK
    )
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR")
    log_format: str = _setting("auto", "json, text, or auto: text on a terminal, else json")
    more_tiers: tuple[tuple[str, TierSettings], ...] = ()

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read every FALLTHROUGH_ variable; raise SettingsError naming the first bad one.

        Blanks and line breaks around a value are none of it: a secret's file ends in one.
        """
        specs = {_variable(f.name): f for f in specs_of(cls)}
        tiers = _variable("tiers")
        order = _parse(tiers, environ.get(tiers, str(cls().tiers)).strip(), specs[tiers])
        further = [name for name in kinds.listed(order) if name not in SEED_TIERS]
        by_tier, known = {}, dict(specs)
        for tier in further:
            by_tier[tier] = its = _of_tier(tier, known)
            known |= its
        for name in environ:
            if name.startswith(PREFIX) and name not in known and not _KUBERNETES.search(name):
                raise SettingsError(_unknown(name, list(known)))
        more = ((tier, TierSettings(**_values(its, environ))) for tier, its in by_tier.items())
        settings = cls(**_values(specs, environ), more_tiers=tuple(more))
        settings._check()
        return settings

    @property
    def model_tiers(self) -> dict[str, TierSettings]:
        """What is set of each model tier, in the order in which a job falls through them."""
        known = {"gpu": self._gpu, "cpu": self._cpu, **dict(self.more_tiers)}
        return {name: known.get(name, TierSettings()) for name in kinds.listed(self.tiers)}

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that a worker consumes, each once."""
        return tuple(dict.fromkeys(filter(None, kinds.listed(self.worker_queues))))

    @property
    def _gpu(self) -> TierSettings:
        return TierSettings(
            url=self.gpu_url,
            model=self.gpu_model,
            api_key=self.gpu_api_key,
            timeout_seconds=self.gpu_timeout_seconds,
            first_token_seconds=self.gpu_first_token_seconds,
            next_token_seconds=self.gpu_next_token_seconds,
            accepts=self.gpu_accepts,
            check=self.check_gpu,
            concurrency=self.gpu_concurrency,
            reserved=self.gpu_reserved,
            limit=self.gpu_limit,
            slow_seconds=self.gpu_slow_seconds,
            priority=self.gpu_priority,
        )

    @property
    def _cpu(self) -> TierSettings:
        return TierSettings(
            url=self.cpu_url,
            model=self.cpu_model,
            api_key=self.cpu_api_key,
            timeout_seconds=self.cpu_timeout_seconds,
            first_token_seconds=self.cpu_first_token_seconds,
            next_token_seconds=self.cpu_next_token_seconds,
            accepts=self.cpu_accepts,
            check=1,
            fleet_concurrency=self.cpu_concurrency,
            reserved=self.cpu_reserved,
            limit=self.cpu_limit,
            slow_seconds=self.cpu_slow_seconds,
            priority=self.cpu_priority,
            wait_seconds=self.cpu_wait_seconds,
        )

    def _check(self) -> None:
        self._check_tiers()
        if self.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            message = (
                f"{PREFIX}LOG_LEVEL: {quoted(self.log_level)} is no DEBUG, INFO, WARNING or ERROR"
            )
            raise SettingsError(message)
        if self.log_format not in {"auto", "json", "text"}:
            message = f"{PREFIX}LOG_FORMAT: {quoted(self.log_format)} is no auto, json or text"
            raise SettingsError(message)
        if self.durable not in {EVERY_SECOND, ALWAYS}:
            message = f"{PREFIX}DURABLE: {quoted(self.durable)} is no {EVERY_SECOND} or {ALWAYS}"
            raise SettingsError(message)
        if self.http_client not in HTTP_CLIENTS:
            names = ", ".join(HTTP_CLIENTS)
            message = f"{PREFIX}HTTP_CLIENT: {quoted(self.http_client)} is none of {names}"
            raise SettingsError(message)
        for name, port in (("PORT", self.port), ("WORKER_PORT", self.worker_port)):
            if port > kinds.HIGHEST_PORT:
                message = (
                    f"{PREFIX}{name}: {port} is out of range, it may be up to {kinds.HIGHEST_PORT}"
                )
                raise SettingsError(message)
        if not self.queues or set(self.queues) - {"interactive", "batch"}:
            message = (
                f"{PREFIX}WORKER_QUEUES: {quoted(self.worker_queues)} must name interactive, batch"
            )
            raise SettingsError(message)
        keys = {name: (tier.url, tier.api_key) for name, tier in self.model_tiers.items()}
        for name, (url, key) in {**keys, "api": (self.api_url, self.api_key)}.items():
            if key and any("@" in urlsplit(each).netloc for each in kinds.servers(url)):
                ours = _variable("api_key" if name == "api" else f"{name}_api_key")
                message = (
                    f"{_variable(f'{name}_url')}: it has a user or password, and {ours} is set: a "
                    "request carries one of them; take the other away"
                )
                raise SettingsError(message)

    def _check_tiers(self) -> None:
        names = list(self.model_tiers)
        for name in SEED_TIERS:
            if name not in names and getattr(self, f"{name}_url"):
                message = f"{_variable(f'{name}_url')}: {_variable('tiers')} does not name {name}"
                raise SettingsError(message)
        if self.strict_finish not in {"1", "0", *names}:
            choice = f"1, {', '.join(['0', *names[:-1]])} or {names[-1]}"
            message = f"{_variable('strict_finish')}: {quoted(self.strict_finish)} is no {choice}"
            raise SettingsError(message)
        may_answer = (*names, kinds.NO_TIERS[0])
        unknown = [each for each in kinds.listed(self.batch_tiers) if each not in may_answer]
        if self.batch_tiers and unknown:
            choice = ", ".join(may_answer)
            message = f"{_variable('batch_tiers')}: {quoted(unknown[0])} is not one of {choice}"
            raise SettingsError(message)

    @property
    def effective_broker_url(self) -> str:
        """The broker's URL, or the store's; its scheme in lower case: kombu knows no other."""
        return kinds.SCHEME.sub(lambda found: found[0].lower(), self.broker_url or self.redis_url)

    @property
    def broker_is_store(self) -> bool:
        """Whether Celery's queues lie on the store's server."""
        return _server(self.effective_broker_url) == _server(self.redis_url)

    @property
    def queues_lie_in_store(self) -> bool:
        """Whether Celery's queues lie in the store's own database."""
        return self.broker_url in {"", self.redis_url}

    def environ(self) -> dict[str, str]:
        """Return the settings that are no defaults as environment variables, for a child."""
        of_tiers = (
            (_variable(f"{tier}_{f.name}"), getattr(its, f.name), f.default)
            for tier, its in self.more_tiers
            for f in specs_of(its)
        )
        own = ((_variable(f.name), getattr(self, f.name), f.default) for f in specs_of(self))
        return {name: str(value) for name, value, default in (*own, *of_tiers) if value != default}

    def rows(self) -> list[SettingRow]:
        """Return every setting as it is shown."""
        own = [_row(_variable(f.name), f, self) for f in specs_of(self)]
        return own + [row for tier, its in self.more_tiers for row in its.rows(tier)]

    def __repr__(self) -> str:
        changed = [f"{row.variable}={row.value!r}" for row in self.rows() if row[1] != row[2]]
        return f"Settings({', '.join(changed)})"


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def specs_of(of: Any) -> list[dataclasses.Field[Any]]:
    """Return the fields that are read from the environment."""
    return [each for each in dataclasses.fields(of) if each.metadata]


def _of_tier(
    tier: str, taken: Mapping[str, dataclasses.Field[Any]]
) -> dict[str, dataclasses.Field[Any]]:
    """Return what can be set of a tier, by variable; none may be another setting's as well."""
    specs = {_variable(f"{tier}_{f.name}"): f for f in specs_of(TierSettings)}
    for name in specs:
        if name in taken:
            tiers = _variable("tiers")
            message = f"{tiers}: a tier cannot be named {tier}: {name} is a setting already"
            raise SettingsError(message)
    return specs


def _values(
    specs: Mapping[str, dataclasses.Field[Any]], environ: Mapping[str, str]
) -> dict[str, Any]:
    return {
        f.name: _parse(name, environ[name].strip(), f)
        for name, f in specs.items()
        if name in environ
        and not (_KUBERNETES.search(name) and _KUBERNETES_PORT.match(environ[name]))
    }


def _row(variable: str, spec: dataclasses.Field[Any], settings: Any) -> SettingRow:
    shown = spec.metadata["kind"].shown(str(getattr(settings, spec.name)))
    return SettingRow(variable, shown, str(spec.default), spec.metadata["about"])


def _unknown(name: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415 - only the way to an error pays for it

    # The prefix that all share would make any two of them look alike.
    short = [other.removeprefix(PREFIX) for other in known]
    near = difflib.get_close_matches(name.removeprefix(PREFIX), short, n=1)
    hint = f"; did you mean {PREFIX}{near[0]}?" if near else "; `fallthrough config` lists them all"
    tier = _tier_in(name)
    if tier and _variable(f"{tier}_url") not in known:
        hint += f"; {_variable('tiers')} names no tier {tier}"
    shown = name[: kinds.LONGEST_SHOWN]
    return f"{shown if shown.isprintable() else ascii(shown)}: no such setting{hint}"


def _tier_in(name: str) -> str:
    """Return the tier that a variable would be of, if such a tier were named; "": none."""
    short = name.removeprefix(PREFIX)
    for spec in specs_of(TierSettings):
        tier = short.removesuffix(f"_{spec.name.upper()}")
        if tier != short and tier.isupper() and kinds.TIER_NAME.fullmatch(tier.lower()):
            return tier.lower()
    return ""


def _parse(name: str, text: str, spec: dataclasses.Field[Any]) -> Any:
    kind: Any = type(spec.default)
    if kind is not str:
        return _number(name, text, kind, spec.metadata)
    # What is nothing unless it is set may also be set to nothing.
    if (text or spec.default) and (fault := spec.metadata["kind"].fault(text)):
        message = f"{name}: {fault}"
        raise SettingsError(message)
    # No shell has done it to a line of `.env`, of an EnvironmentFile, or of a container's.
    # (Path's own would fail for a user whom nobody knows.)
    return os.path.expanduser(text) if spec.metadata["kind"] is kinds.PATH else text  # noqa: PTH111


def _number(name: str, text: str, kind: Callable[[str], float], bounds: Mapping[str, Any]) -> float:
    try:
        value = kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        message = f"{name}: {quoted(text)} is not {what}"
        raise SettingsError(message) from None
    low, high = bounds["low"], bounds["high"]
    if high is None:
        high = HIGHEST_SECONDS if name.endswith("_SECONDS") else HIGHEST_NUMBER
    if not low <= value <= high:
        bound = f"least {low}" if value < low else f"most {high:.0f}"
        message = f"{name}: {quoted(text)[1:-1]} is out of range, it must be at {bound}"
        raise SettingsError(message)
    return value


def _server(url: str) -> tuple[object, ...]:
    """Return what tells a URL's server from others: neither the password nor the database."""
    parts = urlsplit(url)
    if parts.scheme in {"redis", "rediss"}:
        return parts.hostname, parts.port or REDIS_PORT
    return parts.scheme, parts.netloc, parts.path
