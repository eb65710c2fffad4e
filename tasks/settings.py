"""Settings: read once from the environment, in an entry module, and passed down."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import socket
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tasks.errors import SettingsError
from tasks.hosts import network_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "FALLTHROUGH_"
HIGHEST_PORT = 65_535
LONGEST_SHOWN = 80  # characters of a value that an error repeats
REDIS_PORT = 6379
EVERY_SECOND, ALWAYS = "everysec", "always"  # as the store's appendfsync
# What Kubernetes sets in every container for a Service whose name begins with "fallthrough".
_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT$|_PORT_\d+_(TCP|UDP)")
_KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://")  # the value of one that is a setting's name too


# What a request may need of a tier, in the words of `fallback_chain.Need`; text: none of them.
NEEDS = (
    *("text", "schema", "json", "tools", "images", "audio", "video", "files"),
    *("n", "logprobs"),
)
# What no timer, no timeout and no script of the store can count any more lies above these.
HIGHEST_SECONDS = 1e9
HIGHEST_NUMBER = 2**53
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NO_UTF_8 = re.compile(r"[\ud800-\udfff]")  # what Python reads for such a byte
_AUTHORITY = re.compile(r"(?:.*@)?(?P<host>\[[^]]*\]|[^][:]*)(?::(?P<port>[0-9]{0,5}))?", re.DOTALL)
_DATABASE = re.compile(r"/{0,2}[0-9]{0,9}")  # kombu takes a slash off once more
_SCHEME = re.compile(r"(?:^|(?<=;))[A-Za-z]+(?=://)")
_HOST_NAME = re.compile(r"(?=.{1,254}$)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_NUMBER_AT_END = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?$")


def _quoted(text: str) -> str:
    """Return a value as an error shows it: one line, of a long one its beginning, no password."""
    shown = masked_url(text)
    return repr(shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}…")


def _is_host(text: str) -> bool:
    """Whether a text can be a host: a name, an IPv4 address, or an IPv6 one without brackets."""
    if not text.isprintable():  # IDNA would drop what nobody sees
        return False
    try:
        if ":" in text:
            return bool(ipaddress.IPv6Address(text))
        name = text.encode("idna").decode()
        # A client takes what ends so for an IPv4 address.
        if _NUMBER_AT_END.search(name):
            socket.inet_aton(name.removesuffix("."))
    except (ValueError, OSError):
        return False
    return bool(_HOST_NAME.fullmatch(name))


def _fault_of_text(text: str) -> str:
    return "it has bytes that are no UTF-8" if _NO_UTF_8.search(text) else ""


def _fault_of_path(text: str) -> str:
    return "it has control characters" if _CONTROL.search(text) else ""


def _fault_of_name(text: str) -> str:
    return _fault_of_path(text) or _fault_of_text(text)


def fault_of_key(text: str) -> str:
    """Return what keeps a text from being sent as a bearer key; "" if nothing. It is not shown."""
    if re.fullmatch(r"[!-~]*", text):
        return ""
    return (
        "it has characters that no request can carry: give the key alone, of ASCII letters, digits "
        "and signs, without blanks or line breaks inside"
    )


def _fault_of_host(text: str) -> str:
    # An empty one is every address of this machine.
    return "" if not text or _is_host(text) else f"{_quoted(text)} is no host name and no address"


def _fault_of_hosts(text: str) -> str:
    names = (name.strip() for name in text.split(","))
    faults = (_fault_of_host(name.strip("[]")) for name in names if name != "*")
    return next(filter(None, faults), "")


def _fault_of_exceptions(text: str) -> str:
    names = (name.strip() for name in text.split(","))
    hosts = (name.removeprefix("*.") for name in names if name != "*" and not network_of(name))
    return next(filter(None, map(_fault_of_host, (host.lstrip(".") for host in hosts))), "")


def _fault_of_url(schemes: str, text: str) -> str:
    """Say what is wrong with a URL, but nothing of what stands in it: that may be a password."""
    first, *others = (f"{scheme}://" for scheme in schemes.split())
    if not text.lower().startswith((first, *others)):
        fault = f"it does not begin with {' or '.join([first, *others])}"
    else:
        fault = _fault_of_name(text) or _fault_of_place(text)
    return f"it is no URL of the kind {first}host: {fault}" if fault else ""


def _fault_of_place(url: str) -> str:
    """Say what is wrong with a URL's host and port."""
    fault = f"its host or port cannot be one (ports go from 1 to {HIGHEST_PORT})"
    try:
        parts = urlsplit(url)
    except ValueError:
        return fault
    authority = _AUTHORITY.fullmatch(parts.netloc)
    if not parts.netloc:
        return "" if parts.scheme in {"unix", "memory"} else fault
    if not authority or not 1 <= int(authority["port"] or 1) <= HIGHEST_PORT:
        return fault
    host = authority["host"]
    bare = host.removeprefix("[").removesuffix("]")
    good = not host or (_is_host(bare) and (bare != host) == (":" in bare))
    return "" if good else fault


def _fault_of_store(schemes: str, text: str) -> str:
    """As of one URL; its database, or its socket, must be the same for all who read it."""
    fault = _fault_of_url(schemes, text)
    if fault:
        return fault
    parts = urlsplit(text)
    if parts.scheme == "unix":
        alone = parts.path.strip("/") and not parts.netloc.rpartition("@")[2]
        return "" if alone else "it is no URL of the kind unix:///path: no host, and a path"
    if parts.scheme in {"redis", "rediss"} and not _DATABASE.fullmatch(unquote(parts.path)):
        return "its path is no database: it must be a whole number, or nothing"
    return ""


# What a store's URL may say after its ?. The client knows more: another host, other replies.
STORE_OPTIONS = frozenset(
    {
        *("db", "username", "password", "client_name", "max_connections", "timeout"),
        *("socket_timeout", "socket_connect_timeout", "socket_keepalive"),
        *("health_check_interval", "retry_on_timeout"),
        *("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile"),
        *("ssl_password", "ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers"),
    }
)


def _fault_of_redis(schemes: str, text: str) -> str:
    fault = _fault_of_store(schemes, text)
    if fault:
        return fault
    options = parse_qsl(urlsplit(text).query, keep_blank_values=True)
    if STORE_OPTIONS.issuperset(name for name, _ in options):
        return ""
    return "one of its options (those after the ?) is none that the client takes here"


def _fault_of_brokers(schemes: str, text: str) -> str:
    """As of one store's; a broker may have several, of which one answers."""
    urls = text.split(";")
    fault = next(filter(None, (_fault_of_store(schemes, url) for url in urls)), "")
    if len(urls) == 1:
        return fault
    if fault or any(url != url.strip() for url in urls):
        fault = fault or "there are blanks"
        return f"several brokers are parted by ; without blanks (in a password it is %3B): {fault}"
    if len({urlsplit(url).scheme for url in urls}) > 1:
        return "several brokers must be of one kind: all redis://, all amqps:// ..."
    return ""


def _fault_of_server(text: str) -> str:
    """Say what is wrong with the URL of a server that is asked at paths below it."""
    fault = _fault_of_url("http https", text)
    if fault:
        return fault
    # A store's client takes no host for this machine, and knows zones; one of HTTP does neither.
    if "%" in (urlsplit(text).hostname or "%") or "\\" in text:
        return "it is no URL of the kind http://host: its host cannot be one"
    if "?" in text or "#" in text:
        return "it has a query or a fragment: it must end before its ? or #, as paths are to follow"
    return ""


def _fault_of_proxy(text: str) -> str:
    fault = _fault_of_server(text)
    if not fault and not (urlsplit(text).hostname or "").isascii():
        return "its host has letters beyond ASCII: give its xn-- form"
    return fault


def _fault_of_link(text: str) -> str:
    fault = _fault_of_url("http https", text)
    if not fault and "@" in urlsplit(text).netloc:
        fault = "it has a user or password, which whoever sees the page would see: take it out"
    return fault


def masked_url(text: str) -> str:
    """Return a URL without what only its server may know: user, password, values of its query."""
    text = re.sub(r"(?<=://).*@", "***@", text, flags=re.DOTALL)
    if "://" in text:
        text = re.sub(r"([?&][^=&#]*=)[^&#]*", r"\1***", text)
    return text


def _fault_of_needs(text: str) -> str:
    unknown = [word for word in map(str.strip, text.lower().split(",")) if word not in NEEDS]
    return f"{_quoted(unknown[0])} is not one of {', '.join(NEEDS)}" if unknown else ""


def _fault_of_tiers(text: str) -> str:
    return "" if text in {"1", "0", "gpu", "cpu"} else f"{_quoted(text)} is no 1, 0, gpu or cpu"


def _hidden(text: str) -> str:
    return "********" if text else ""


class _Kind(NamedTuple):
    """What a text must be. fault: says what is wrong with one, if anything. shown: to people."""

    fault: Callable[[str], str]
    shown: Callable[[str], str] = str


_TEXT = _Kind(_fault_of_text)
_NAME = _Kind(_fault_of_name)
_PATH = _Kind(_fault_of_path)
_PLACE_OF_FILES = _Kind(_fault_of_path, masked_url)
_HOST = _Kind(_fault_of_host)
_NAMES = _Kind(_fault_of_hosts)
_EXCEPTIONS = _Kind(_fault_of_exceptions)
_KEY = _Kind(fault_of_key, _hidden)
_KEYS = _Kind(lambda _: "", _hidden)  # `tasks.keys` reads them, where they count
_NEEDS = _Kind(_fault_of_needs)
_TIERS = _Kind(_fault_of_tiers)
_STORE = _Kind(partial(_fault_of_redis, "redis rediss unix"), masked_url)
_BROKER = _Kind(partial(_fault_of_brokers, "redis rediss unix amqp amqps memory"), masked_url)
_SERVER = _Kind(_fault_of_server, masked_url)
_PROXY = _Kind(_fault_of_proxy, masked_url)
_LINK = _Kind(_fault_of_link, masked_url)


def _setting(default: Any, about: str, *, low: float = 0, kind: _Kind = _TEXT) -> Any:
    return field(default=default, metadata={"about": about, "low": low, "kind": kind})


class SettingRow(NamedTuple):
    """A setting as it is shown: secrets masked."""

    variable: str
    value: str
    default: str
    about: str


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """What an operator can set. Each field is read from FALLTHROUGH_ and its name in capitals."""

    redis_url: str = _setting(
        "redis://127.0.0.1:6379/0",
        "Redis >= 7.2 or Valkey that keeps the job records",
        kind=_STORE,
    )
    broker_url: str = _setting(
        "",
        "Celery's broker; empty: the same as redis_url",
        kind=_BROKER,
    )
    durable: str = _setting(
        EVERY_SECOND,
        "always: accept only what is on disk; everysec: a store that dies may lose more",
    )
    durable_replicas: int = _setting(
        0, "accept only what so many replicas of the store have", low=0
    )
    gpu_url: str = _setting("", "OpenAI API of the GPU server; empty: none", kind=_SERVER)
    gpu_model: str = _setting(
        "", "model of the GPU tier; empty: found from its /v1/models", kind=_NAME
    )
    gpu_api_key: str = _setting("", "bearer key for the GPU server", kind=_KEY)
    gpu_timeout_seconds: float = _setting(60.0, "limit of one try at the GPU tier", low=0.001)
    gpu_accepts: str = _setting(
        "",
        "what a request may need of the GPU tier: schema, json, tools, images, audio, video, "
        "files, n, logprobs; text: none of them; empty: anything",
        kind=_NEEDS,
    )
    gpu_concurrency: int = _setting(64, "calls at once to the GPU tier, per worker process", low=1)
    cpu_url: str = _setting("", "OpenAI API of the CPU server; empty: none", kind=_SERVER)
    cpu_model: str = _setting(
        "", "model of the CPU tier; empty: found from its /v1/models", kind=_NAME
    )
    cpu_api_key: str = _setting("", "bearer key for the CPU server", kind=_KEY)
    cpu_timeout_seconds: float = _setting(120.0, "limit of one try at the CPU tier", low=0.001)
    cpu_accepts: str = _setting(
        "", "the same of the CPU tier; of the embedded model: text", kind=_NEEDS
    )
    check_gpu: int = _setting(
        0, "1: an answer of the GPU tier, too, must be what was asked for", low=0
    )
    strict_finish: str = _setting(
        "1",
        "tiers whose answers must say why they ended: 1 is all, 0 none, gpu or cpu one",
        kind=_TIERS,
    )
    cpu_concurrency: int = _setting(2, "calls at once to the CPU tier, whole fleet", low=1)
    cpu_wait_seconds: float = _setting(
        10.0, "how long a job waits for a place at the CPU tier when a GPU tier is set", low=0
    )
    connect_timeout_seconds: float = _setting(2.0, "limit to reach a tier's server", low=0.001)
    proxy: str = _setting(
        "",
        "proxy on the way to model servers, and of the command line to the API; empty: none",
        kind=_PROXY,
    )
    no_proxy: str = _setting(
        "",
        "hosts, domains, networks that are reached without the proxy, as loopback always is",
        kind=_EXCEPTIONS,
    )
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
        "",
        "where files lie: a folder, or any URL that fsspec knows (s3://bucket/path)",
        kind=_PLACE_OF_FILES,
    )
    batch_window: int = _setting(32, "slices of a batch in flight at once", low=1)
    slice_lines: int = _setting(128, "lines of a batch in one slice, at most", low=1)
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
        "", "API keys: owner=key, comma-separated; owner!=key for an admin", kind=_KEYS
    )
    keys_file: str = _setting("", "file of API keys, made by `fallthrough keys`", kind=_PATH)
    client_seconds: float = _setting(
        10.0, "limit for a request's head to arrive, and between two pieces of its body", low=0.1
    )
    allowed_hosts: str = _setting(
        "", "names by which a server on loopback without keys may be called; *: any", kind=_NAMES
    )
    allow_no_keys: int = _setting(0, "1: serve the network without API keys", low=0)
    key_requests_per_minute: int = _setting(0, "requests a minute of one owner; 0: any", low=0)
    key_concurrency: int = _setting(0, "requests at once of one owner; 0: any", low=0)
    max_queued_jobs: int = _setting(100_000, "jobs unfinished at once; 0: any", low=0)
    key_queued_jobs: int = _setting(0, "jobs of one owner unfinished at once; 0: any", low=0)
    max_batches: int = _setting(1_000, "batches unfinished at once; 0: any", low=0)
    key_batches: int = _setting(0, "batches of one owner unfinished at once; 0: any", low=0)
    host: str = _setting("127.0.0.1", "address that the API listens on", kind=_HOST)
    port: int = _setting(8000, "port of the API", low=0)
    worker_host: str = _setting("127.0.0.1", "address of a worker's health port", kind=_HOST)
    worker_port: int = _setting(0, "health port of a worker; 0 picks a free one", low=0)
    worker_queues: str = _setting("interactive,batch", "queues that a worker consumes")
    worker_threads: int = _setting(
        0, "slices at once in a worker process; 0: what its queues want", low=0
    )
    api_url: str = _setting(
        "http://127.0.0.1:8000", "where the command line finds the API", kind=_SERVER
    )
    api_key: str = _setting("", "the key that the command line sends", kind=_KEY)
    flower_url: str = _setting(
        "", "where people find Flower: the status page links to it", kind=_LINK
    )
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR")
    log_format: str = _setting("auto", "json, text, or auto: text on a terminal, else json")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read every FALLTHROUGH_ variable; raise SettingsError naming the first bad one.

        Blanks and line breaks around a value are none of it: a secret's file ends in one.
        """
        known = {PREFIX + f.name.upper(): f for f in dataclasses.fields(cls)}
        for name in environ:
            if name.startswith(PREFIX) and name not in known and not _KUBERNETES.search(name):
                raise SettingsError(_unknown(name, list(known)))
        values = {
            f.name: _parse(name, environ[name].strip(), f)
            for name, f in known.items()
            if name in environ
            and not (_KUBERNETES.search(name) and _KUBERNETES_PORT.match(environ[name]))
        }
        settings = cls(**values)
        settings._check()
        return settings

    def _check(self) -> None:
        if self.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            message = (
                f"{PREFIX}LOG_LEVEL: {_quoted(self.log_level)} is no DEBUG, INFO, WARNING or ERROR"
            )
            raise SettingsError(message)
        if self.log_format not in {"auto", "json", "text"}:
            message = f"{PREFIX}LOG_FORMAT: {_quoted(self.log_format)} is no auto, json or text"
            raise SettingsError(message)
        if self.durable not in {EVERY_SECOND, ALWAYS}:
            message = f"{PREFIX}DURABLE: {_quoted(self.durable)} is no {EVERY_SECOND} or {ALWAYS}"
            raise SettingsError(message)
        for name, port in (("PORT", self.port), ("WORKER_PORT", self.worker_port)):
            if port > HIGHEST_PORT:
                message = f"{PREFIX}{name}: {port} is out of range, it may be up to {HIGHEST_PORT}"
                raise SettingsError(message)
        queues = [q for q in self.worker_queues.split(",") if q]
        if not queues or set(queues) - {"interactive", "batch"}:
            message = (
                f"{PREFIX}WORKER_QUEUES: {_quoted(self.worker_queues)} must name interactive, batch"
            )
            raise SettingsError(message)
        for url, key in (
            ("GPU_URL", "GPU_API_KEY"),
            ("CPU_URL", "CPU_API_KEY"),
            ("API_URL", "API_KEY"),
        ):
            if getattr(self, key.lower()) and "@" in urlsplit(getattr(self, url.lower())).netloc:
                message = (
                    f"{PREFIX}{url}: it has a user or password, and {PREFIX}{key} is set: a "
                    "request carries one of them; take the other away"
                )
                raise SettingsError(message)

    @property
    def effective_broker_url(self) -> str:
        """The broker's URL, or the store's; its scheme in lower case: kombu knows no other."""
        return _SCHEME.sub(lambda found: found[0].lower(), self.broker_url or self.redis_url)

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
                f.metadata["kind"].shown(str(getattr(self, f.name))),
                str(f.default),
                f.metadata["about"],
            )
            for f in dataclasses.fields(self)
        ]

    def __repr__(self) -> str:
        changed = [f"{row.variable}={row.value!r}" for row in self.rows() if row[1] != row[2]]
        return f"Settings({', '.join(changed)})"


def _unknown(name: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415 - only the way to an error pays for it

    # The prefix that all share would make any two of them look alike.
    short = [other.removeprefix(PREFIX) for other in known]
    near = difflib.get_close_matches(name.removeprefix(PREFIX), short, n=1)
    hint = f"; did you mean {PREFIX}{near[0]}?" if near else "; `fallthrough config` lists them all"
    shown = name[:LONGEST_SHOWN]
    return f"{shown if shown.isprintable() else ascii(shown)}: no such setting{hint}"


def _parse(name: str, text: str, spec: dataclasses.Field[Any]) -> Any:
    kind: Any = type(spec.default)
    if kind is not str:
        return _number(name, text, kind, spec.metadata["low"])
    # What is nothing unless it is set may also be set to nothing.
    if (text or spec.default) and (fault := spec.metadata["kind"].fault(text)):
        message = f"{name}: {fault}"
        raise SettingsError(message)
    return text


def _number(name: str, text: str, kind: Callable[[str], float], low: float) -> float:
    try:
        value = kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        message = f"{name}: {_quoted(text)} is not {what}"
        raise SettingsError(message) from None
    high = HIGHEST_SECONDS if name.endswith("_SECONDS") else HIGHEST_NUMBER
    if not low <= value <= high:
        bound = f"least {low}" if value < low else f"most {high:.0f}"
        message = f"{name}: {_quoted(text)[1:-1]} is out of range, it must be at {bound}"
        raise SettingsError(message)
    return value


def _server(url: str) -> tuple[object, ...]:
    """Return what tells a URL's server from others: neither the password nor the database."""
    parts = urlsplit(url)
    if parts.scheme in {"redis", "rediss"}:
        return parts.hostname, parts.port or REDIS_PORT
    return parts.scheme, parts.netloc, parts.path
