"""What the text of a setting must be, by its kind, and how it is shown. Pure."""

from __future__ import annotations

import ipaddress
import re
import socket
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import idna

from tasks.hosts import network_of, origins_of

if TYPE_CHECKING:
    from collections.abc import Callable

HIGHEST_PORT = 65_535
LONGEST_SHOWN = 80  # characters of a value that an error repeats

# What a request may need of a tier, in the words of `fallback_chain.Need`; text: none of them.
NEEDS = (
    *("text", "schema", "json", "tools", "images", "audio", "video", "files"),
    *("n", "logprobs", "embeddings"),
)
# What else stands where a tier's name would: in answers, in the names of tasks.
NO_TIERS = ("cache", "degraded", "validate", "part", "join")
TIER_NAME = re.compile(r"[a-z][a-z0-9_]{0,15}")
# How a server is told how urgent a call is, in the words of `fallback_chain.urgency`.
TOLD_PRIORITIES = ("off", "vllm", "dynamo", "smg", "llm-d")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NO_UTF_8 = re.compile(r"[\ud800-\udfff]")  # what Python reads for such a byte
_AUTHORITY = re.compile(r"(?:.*@)?(?P<host>\[[^]]*\]|[^][:]*)(?::(?P<port>[0-9]{0,5}))?", re.DOTALL)
_BETWEEN_SERVERS = re.compile(r"[\s,]+(?=https?://)|[\s,]+$", re.IGNORECASE)
_DATABASE = re.compile(r"/{0,2}[0-9]{0,9}")  # kombu takes a slash off once more
SCHEME = re.compile(r"(?:^|(?<=;))[A-Za-z]+(?=://)")
_HOST_NAME = re.compile(r"(?=.{1,254}$)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_BOUNDS = re.compile(r"([1-9][0-9]{0,5})\.\.([1-9][0-9]{0,5})")
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[^]]*\]|[^][:/?#@]+)(?::(?P<port>[1-9][0-9]{0,4}))?"
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LEADING_ZERO = re.compile(r"(?:^|\.)0[0-9]")
_NUMBER_AT_END = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?$")


def quoted(text: str) -> str:
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
            # To one client 010.1.1.1, or 010.1, is no address, to another 8.1.1.1, or 8.0.0.1.
            if _LEADING_ZERO.search(name):
                return False
            socket.inet_aton(name.removesuffix("."))
        # A client reads it back, by rules that know fewer names: "-ü" and "☃" are none to it.
        if name.lower().startswith("xn--"):
            idna.decode(name)
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
    return "" if not text or _is_host(text) else f"{quoted(text)} is no host name and no address"


def _fault_of_hosts(text: str) -> str:
    names = (name.strip() for name in text.split(","))
    faults = (_fault_of_host(name.strip("[]")) for name in names if name != "*")
    return next(filter(None, faults), "")


def _fault_of_origins(text: str) -> str:
    origins = origins_of(text)
    if "*" in origins and len(origins) > 1:
        return "* stands alone: it is every origin"
    return next(filter(None, map(_fault_of_origin, origins)), "")


def _fault_of_origin(text: str) -> str:
    """Say what is wrong with an origin as a browser sends it."""
    if text == "*":
        return ""
    found = _ORIGIN.fullmatch(text)
    host = found["host"].removeprefix("[").removesuffix("]") if found else ""
    if not found or not host.isascii() or not _is_host(host) or (":" in host) != ("[" in text):
        return (
            f"{quoted(text)} is no origin: a scheme, a host and a port alone, as https://a.example"
        )
    scheme, port = found["scheme"], int(found["port"] or 1)
    if _DEFAULT_PORTS.get(scheme) == port:
        return f"{quoted(text)}: browsers leave out the port that its scheme has anyway"
    fault = f"{quoted(text)}: ports go from 1 to {HIGHEST_PORT}"
    return "" if port <= HIGHEST_PORT else fault


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
    host = urlsplit(text).hostname or "%"
    if "%" in host or "\\" in text or ("_" in host and not host.isascii()):
        return "it is no URL of the kind http://host: its host cannot be one"
    if "?" in text or "#" in text:
        return "it has a query or a fragment: it must end before its ? or #, as paths are to follow"
    return ""


def servers(text: str) -> list[str]:
    """Return the URLs in a text, parted by commas or blanks; as `fallback_chain` parts them."""
    return [url for url in _BETWEEN_SERVERS.split(text.strip()) if url]


def _fault_of_servers(text: str) -> str:
    return next(filter(None, map(_fault_of_server, servers(text) or [text])), "")


def _masked_servers(text: str) -> str:
    return ", ".join(map(masked_url, servers(text)))


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
    words = [word.strip() for word in text.lower().split(",")]
    unknown = [word for word in words if word not in NEEDS]
    if unknown:
        return f"{quoted(unknown[0])} is not one of {', '.join(NEEDS)}"
    alone = "embeddings" not in words or len({*words}) == 1
    return "" if alone else "embeddings stands alone: a tier that accepts it does nothing else"


def listed(text: str) -> tuple[str, ...]:
    """Return the names in a text like "gpu, cpu"."""
    return tuple(map(str.strip, text.split(",")))


def _fault_of_order(text: str) -> str:
    names = listed(text)
    for name in names:
        if not TIER_NAME.fullmatch(name) or name in NO_TIERS:
            return (
                f"{quoted(name)} can be no tier's name: it has up to 16 small letters, digits and "
                f"_, begins with a letter, and is none of {', '.join(NO_TIERS)}"
            )
        if names.count(name) > 1:
            return f"it names {name} more than once"
    return ""


def _fault_of_bounds(text: str) -> str:
    found = _BOUNDS.fullmatch(text)
    if not found or int(found[1]) > int(found[2]):
        return f"{quoted(text)} is no lowest..highest of two whole numbers, as 4..256"
    return ""


def _fault_of_priority(text: str) -> str:
    known = ", ".join(TOLD_PRIORITIES)
    return "" if text in TOLD_PRIORITIES else f"{quoted(text)} is not one of {known}"


def _hidden(text: str) -> str:
    return "********" if text else ""


class Kind(NamedTuple):
    """What a text must be. fault: says what is wrong with one, if anything. shown: to people."""

    fault: Callable[[str], str]
    shown: Callable[[str], str] = str


TEXT = Kind(_fault_of_text)
NAME = Kind(_fault_of_name)
PATH = Kind(_fault_of_path)
PLACE_OF_FILES = Kind(_fault_of_path, masked_url)
HOST = Kind(_fault_of_host)
NAMES = Kind(_fault_of_hosts)
ORIGINS = Kind(_fault_of_origins)
EXCEPTIONS = Kind(_fault_of_exceptions)
KEY = Kind(fault_of_key, _hidden)
KEYS = Kind(lambda _: "", _hidden)  # `tasks.keys` reads them, where they count
OF_NEEDS = Kind(_fault_of_needs)
ORDER = Kind(_fault_of_order)
PRIORITY = Kind(_fault_of_priority)
LIMITS = Kind(_fault_of_bounds)
STORE = Kind(partial(_fault_of_redis, "redis rediss unix"), masked_url)
BROKER = Kind(partial(_fault_of_brokers, "redis rediss unix amqp amqps memory"), masked_url)
SERVER = Kind(_fault_of_server, masked_url)
SERVERS = Kind(_fault_of_servers, _masked_servers)
PROXY = Kind(_fault_of_proxy, masked_url)
LINK = Kind(_fault_of_link, masked_url)
