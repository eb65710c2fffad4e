"""Ports: free ones for the parts within, and a clear word about taken ones."""

from __future__ import annotations

import socket


class PortTakenError(Exception):
    """A port that the user chose, or the default, is in use."""


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def preferred(port: int) -> int:
    """Return this port if it is free now, else one that is; 0: any that is."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return free_port()
        return int(sock.getsockname()[1])


def claim(port: int, option: str, part: str, host: str = "127.0.0.1") -> int:
    """Return the port, or a free one for 0; raise PortTakenError that names the option.

    host: an address or a name of this machine.
    """
    if port == 0:
        return free_port()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            message = (
                f"port {port} for {part} cannot be used on {host} ({error.strerror}): "
                f"choose another with {option} N, or {option} 0 for a free one"
            )
            raise PortTakenError(message) from None
    return port
