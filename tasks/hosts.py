"""Hosts, as settings and Host headers name them. Pure."""

from __future__ import annotations

import ipaddress
import re


def http_url(host: str, port: int) -> str:
    """Return where a server that listens on this host can be asked from this machine."""
    reached = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


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


def goes_direct(host: str, exceptions: str) -> bool:
    """Whether a host is reached without the proxy: loopback always is.

    exceptions, parted by commas: names, each with all below it; addresses; networks; "*" is any.
    """
    name = host.lower().removesuffix(".").removeprefix("[").removesuffix("]")
    entries = [entry.strip().lower() for entry in exceptions.split(",") if entry.strip()]
    if is_loopback(name) or "*" in entries:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        bases = {entry.removeprefix("*").strip(".") for entry in entries}
        return any(name == base or name.endswith(f".{base}") for base in bases)
    return any(address in network for network in map(network_of, entries) if network)


def network_of(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return the network, or the one address, that a text names; None: it names none."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
