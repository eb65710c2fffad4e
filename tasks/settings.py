"""Settings: read once from the environment, in an entry module, and passed down."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from tasks.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "FALLTHROUGH_"
HIGHEST_PORT = 65_535
REDIS_PORT = 6379
EVERY_SECOND, ALWAYS = "everysec", "always"  # as the store's appendfsync
# What Kubernetes sets in every container for a Service whose name begins with "fallthrough".
_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT$|_PORT_\d+_(TCP|UDP)")


def _setting(
    default: Any, about: str, *, low: float | None = None, secret: bool = False, url: str = ""
) -> Any:
    return field(
        default=default, metadata={"about": about, "low": low, "secret": secret, "url": url}
    )


class SettingRow(NamedTuple):
    """A setting as it is shown: secrets masked."""

    variable: str
    value: str
    default: str
    about: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator can set. Each field is read from FALLTHROUGH_ and its name in capitals."""

    redis_url: str = _setting(
        "redis://127.0.0.1:6379/0",
        "Redis >= 7.2 or Valkey that keeps the job records",
        url="redis rediss unix",
    )
    broker_url: str = _setting(
        "",
        "Celery's broker; empty: the same as redis_url",
        url="redis rediss unix amqp amqps memory",
    )
    durable: str = _setting(
        EVERY_SECOND,
        "always: accept only what is on disk; everysec: a store that dies may lose more",
    )
    durable_replicas: int = _setting(
        0, "accept only what so many replicas of the store have", low=0
    )
    gpu_url: str = _setting("", "OpenAI API of the GPU server; empty: none", url="http https")
    gpu_model: str = _setting("", "model of the GPU tier; empty: found from its /v1/models")
    gpu_api_key: str = _setting("", "bearer key for the GPU server", secret=True)
    gpu_timeout_seconds: float = _setting(60.0, "limit of one try at the GPU tier", low=0.001)
    gpu_concurrency: int = _setting(64, "calls at once to the GPU tier, per worker process", low=1)
    cpu_url: str = _setting("", "OpenAI API of the CPU server; empty: none", url="http https")
    cpu_model: str = _setting("", "model of the CPU tier; empty: found from its /v1/models")
    cpu_api_key: str = _setting("", "bearer key for the CPU server", secret=True)
    cpu_timeout_seconds: float = _setting(120.0, "limit of one try at the CPU tier", low=0.001)
    cpu_concurrency: int = _setting(2, "calls at once to the CPU tier, whole fleet", low=1)
    cpu_wait_seconds: float = _setting(
        10.0, "how long a job waits for a place at the CPU tier when a GPU tier is set", low=0
    )
    connect_timeout_seconds: float = _setting(2.0, "limit to reach a tier's server", low=0.001)
    degraded_message: str = _setting(
        "The service is temporarily unable to answer. Please try again later.",
        "the answer when every tier failed",
    )
    breaker_failure_threshold: int = _setting(3, "failures in a row that open a breaker", low=1)
    breaker_recovery_seconds: float = _setting(30.0, "open time before a probe", low=0.001)
    breaker_success_threshold: int = _setting(2, "probes that must succeed to close", low=1)
    cache_ttl_seconds: int = _setting(86_400, "how long an answer stays in the cache", low=1)
    result_ttl_seconds: int = _setting(86_400, "how long a finished job is kept", low=1)
    chat_deadline_seconds: float = _setting(120.0, "deadline of a sync chat completion", low=0.001)
    job_deadline_seconds: float = _setting(86_400.0, "deadline of a job", low=0.001)
    lease_seconds: float = _setting(8.0, "lease of a running job; renewed four times within", low=1)
    sweep_seconds: float = _setting(2.0, "time between two sweeps", low=0.1)
    dispatch_grace_seconds: float = _setting(
        10.0,
        "how long a message may stay unbegun before it is looked for; doubles, to 30 s at most",
        low=1,
    )
    files_url: str = _setting(
        "", "where files lie: a folder, or any URL that fsspec knows (s3://bucket/path)"
    )
    batch_window: int = _setting(32, "slices of a batch in flight at once", low=1)
    slice_lines: int = _setting(128, "lines of a batch in one slice, at most", low=1)
    drain_seconds: float = _setting(20.0, "time that running calls get after SIGTERM", low=0)
    max_body_bytes: int = _setting(4 * 1024 * 1024, "largest request body", low=1024)
    api_keys: str = _setting(
        "", "API keys: owner=key, comma-separated; owner!=key for an admin", secret=True
    )
    keys_file: str = _setting("", "file of API keys, made by `fallthrough keys`")
    allow_no_keys: int = _setting(0, "1: serve the network without API keys", low=0)
    key_requests_per_minute: int = _setting(0, "requests a minute of one owner; 0: any", low=0)
    key_concurrency: int = _setting(0, "requests at once of one owner; 0: any", low=0)
    max_queued_jobs: int = _setting(100_000, "jobs unfinished at once; 0: any", low=0)
    key_queued_jobs: int = _setting(0, "jobs of one owner unfinished at once; 0: any", low=0)
    max_batches: int = _setting(1_000, "batches unfinished at once; 0: any", low=0)
    key_batches: int = _setting(0, "batches of one owner unfinished at once; 0: any", low=0)
    host: str = _setting("127.0.0.1", "address that the API listens on")
    port: int = _setting(8000, "port of the API", low=0)
    worker_host: str = _setting("127.0.0.1", "address of a worker's health port")
    worker_port: int = _setting(0, "health port of a worker; 0 picks a free one", low=0)
    worker_queues: str = _setting("interactive,batch", "queues that a worker consumes")
    worker_threads: int = _setting(
        0, "slices at once in a worker process; 0: what its queues want", low=0
    )
    api_url: str = _setting(
        "http://127.0.0.1:8000", "where the command line finds the API", url="http https"
    )
    api_key: str = _setting("", "the key that the command line sends", secret=True)
    flower_url: str = _setting(
        "", "where people find Flower: the status page links to it", url="http https"
    )
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR")
    log_format: str = _setting("auto", "json, text, or auto: text on a terminal, else json")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read every FALLTHROUGH_ variable; raise SettingsError naming the first bad one."""
        known = {PREFIX + f.name.upper(): f for f in dataclasses.fields(cls)}
        for name in environ:
            if name.startswith(PREFIX) and name not in known and not _KUBERNETES.search(name):
                raise SettingsError(_unknown(name, list(known)))
        values = {
            f.name: _parse(name, environ[name], f) for name, f in known.items() if name in environ
        }
        settings = cls(**values)
        settings._check()
        return settings

    def _check(self) -> None:
        if self.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            message = f"{PREFIX}LOG_LEVEL: {self.log_level!r} is no DEBUG, INFO, WARNING or ERROR"
            raise SettingsError(message)
        if self.log_format not in {"auto", "json", "text"}:
            message = f"{PREFIX}LOG_FORMAT: {self.log_format!r} is no auto, json or text"
            raise SettingsError(message)
        if self.durable not in {EVERY_SECOND, ALWAYS}:
            message = f"{PREFIX}DURABLE: {self.durable!r} is no {EVERY_SECOND} or {ALWAYS}"
            raise SettingsError(message)
        for name, port in (("PORT", self.port), ("WORKER_PORT", self.worker_port)):
            if port > HIGHEST_PORT:
                message = f"{PREFIX}{name}: {port} is out of range, it may be up to {HIGHEST_PORT}"
                raise SettingsError(message)
        queues = [q for q in self.worker_queues.split(",") if q]
        if not queues or set(queues) - {"interactive", "batch"}:
            message = f"{PREFIX}WORKER_QUEUES: {self.worker_queues!r} must name interactive, batch"
            raise SettingsError(message)

    @property
    def effective_broker_url(self) -> str:
        """The broker's URL: its own, or the store's."""
        return self.broker_url or self.redis_url

    @property
    def broker_is_store(self) -> bool:
        """Whether Celery's queues lie on the store's server."""
        return _server(self.effective_broker_url) == _server(self.redis_url)

    def environ(self) -> dict[str, str]:
        """Return the settings that are no defaults as environment variables, for a child."""
        return {
            PREFIX + f.name.upper(): str(getattr(self, f.name))
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        }

    def rows(self) -> list[SettingRow]:
        """Return every setting as it is shown."""
        return [
            SettingRow(
                PREFIX + f.name.upper(),
                _masked(getattr(self, f.name), secret=f.metadata["secret"]),
                str(f.default),
                f.metadata["about"],
            )
            for f in dataclasses.fields(self)
        ]


def _unknown(name: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415 - only the way to an error pays for it

    # The prefix that all share would make any two of them look alike.
    short = [other.removeprefix(PREFIX) for other in known]
    near = difflib.get_close_matches(name.removeprefix(PREFIX), short, n=1)
    hint = f"; did you mean {PREFIX}{near[0]}?" if near else "; `fallthrough config` lists them all"
    return f"{name}: no such setting{hint}"


def _parse(name: str, text: str, spec: dataclasses.Field[Any]) -> Any:
    kind: Any = type(spec.default)
    if kind is str:
        if text and spec.metadata["url"]:
            _check_url(name, text, spec.metadata["url"].split())
        return text
    return _number(name, text, kind, spec.metadata["low"])


def _number(name: str, text: str, kind: Callable[[str], float], low: float | None) -> float:
    try:
        value = kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        message = f"{name}: {text!r} is not {what}"
        raise SettingsError(message) from None
    if not math.isfinite(value) or (low is not None and value < low):
        message = f"{name}: {text} is out of range, it must be at least {low}"
        raise SettingsError(message)
    return value


def _check_url(name: str, text: str, schemes: list[str]) -> None:
    try:
        parts = urlsplit(text)
        good = parts.scheme in schemes and (parts.netloc or parts.scheme in {"unix", "memory"})
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        message = (
            f"{name}: {_masked(text, secret=False)!r} is no URL of the kind {schemes[0]}://host"
        )
        raise SettingsError(message)


def _server(url: str) -> tuple[object, ...]:
    """Return what tells a URL's server from others: neither the password nor the database."""
    parts = urlsplit(url)
    if parts.scheme in {"redis", "rediss"}:
        return parts.hostname, parts.port or REDIS_PORT
    return parts.scheme, parts.netloc, parts.path


def _masked(value: object, *, secret: bool) -> str:
    text = str(value)
    if secret:
        return "********" if text else ""
    if "://" in text and "@" in text:
        parts = urlsplit(text)
        return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))
    return text
