"""Hosts, as settings and Host headers name them. Pure."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit


def http_url(host: str, port: int) -> str:
    """Return where a server that listens on this host can be asked from this machine."""
    reached = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def shown_host(url: str) -> str:
    """Return host and port of a URL, without user and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def is_loopback(host: str) -> bool:
    """Whether a host, as a Host header or a setting names it without its port, is loopback's."""
    name = host.lower().removesuffix(".")
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def may_be_called(host: str, allowed: str) -> bool:
    """Whether a server on loopback, open to all who reach it, answers to this Host header.

    A page of another site may have its own name resolve to loopback, and so reach such a server by
    its visitor's browser. allowed: further names, parted by commas; "*" is any.
    """
    name = re.sub(r":\d*$", "", host.strip().lower())
    further = {each.strip().lower() for each in allowed.split(",")} - {""}
    return is_loopback(name) or name in further or "*" in further


def origins_of(text: str) -> tuple[str, ...]:
    """Return the origins in a text, parted by commas, as browsers write them; "*" is any."""
    return tuple(each.strip().lower() for each in text.split(",") if each.strip())


def goes_direct(host: str, exceptions: str) -> bool:
    """Whether a host is reached without the proxy: loopback always is.

    exceptions, parted by commas: names, each with all below it; addresses; networks; "*" is any.
    """
    name = host.lower().removesuffix(".").removeprefix("[").removesuffix("]")
    entries = [entry.strip().lower() for entry in exceptions.split(",") if entry.strip()]
    address = _address_of(name)
    if "*" in entries or (address.is_loopback if address else is_loopback(name)):
        return True
    if address is None:
        bases = {entry.removeprefix("*").strip(".") for entry in entries}
        return any(name == base or name.endswith(f".{base}") for base in bases)
    return any(address in network for network in map(network_of, entries) if network)


def _address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a client of HTTP takes a host for; None: it is a name.

    127.1, 0x7f000001 and ::ffff:127.0.0.1 are 127.0.0.1, too.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return _short_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def _short_address(text: str) -> ipaddress.IPv4Address | None:
    """Return an IPv4 address of fewer than four parts, or of others than decimal ones."""
    try:
        # A leading zero is an octal number's; Python wants an o after it.
        *first, last = (int(re.sub(r"^0(?=\d)", "0o", part), 0) for part in text.split("."))
        places = 4 - len(first)
        rest = last.to_bytes(places, "big")
        return ipaddress.IPv4Address(bytes(first) + rest)
    except (ValueError, OverflowError):
        return None


def network_of(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return the network, or the one address, that a text names; None: it names none."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
