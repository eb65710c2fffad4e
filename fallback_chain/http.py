"""The HTTP port of the tiers, small so that the cheapest client serves: one request, one reply.

A reply comes whole, or piece by piece. The port's adapters are `httptools_http`, `aiohttp_http` and
`httpx_http`; one suite of tests holds them to the same.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from fallback_chain.errors import Kind

IDLE_CONNECTION_SECONDS = 60
LARGEST_REPLY = 32 * 1024 * 1024  # bytes, unpacked
LARGEST_LIST = 4 * 1024 * 1024  # bytes of a list of models
LARGEST_ERROR = 1024 * 1024  # bytes that are read of what comes with another status than 200
TIMER_SECONDS = 0.005  # what a timer may be early


class Reply(msgspec.Struct, frozen=True):
    """A whole answer. headers: names in lower case, those that are text; none for a status of 200.

    content: unpacked.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes


class StreamedReply(NamedTuple):
    """An answer that is still coming.

    headers: names in lower case, those that are text, whatever the status. pieces: the body as it
    comes, unpacked, whole or UpstreamError; of an error, its beginning. Who gives up waiting for a
    piece gets no other.
    """

    status: int
    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]


class Http(Protocol):
    """Sends a request and reads the reply, or raises UpstreamError.

    It follows no redirect, keeps no cookie, and takes no proxy from the environment. Whoever is
    cut off closes the connection of his request.
    """

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | None,
        timeout_seconds: float,
    ) -> Reply:
        """Send one request and read the whole reply; of an error, its beginning.

        headers: their names in lower case. The time limit covers all of it.
        """

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | None,
        timeout_seconds: float,
    ) -> AbstractAsyncContextManager[StreamedReply]:
        """Send one request; the context begins once the reply's head is there.

        The time limit covers connecting and the head; the body has asyncio.timeout() of whoever
        reads it. Who leaves before the body's end, or is cut off, closes the connection at once,
        by each client.
        """

    async def aclose(self) -> None:
        """Close the connections."""


class HttpAdapter:
    """What each of them is told. Connections open on first use."""

    def __init__(
        self,
        *,
        connect_timeout_seconds: float,
        largest_reply: int = LARGEST_REPLY,
        proxy: str = "",
        direct: Iterable[str] = (),
        authorities: bytes = b"",
    ) -> None:
        """largest_reply: bytes, unpacked; a larger one is an UpstreamError.

        proxy: its URL; direct: hosts that are reached without it. The environment names none.
        authorities: certificates in PEM that are believed beside the system's.
        """
        self._largest = largest_reply
        self._connect_seconds = connect_timeout_seconds
        self._proxy, self._direct = proxy, tuple(direct)
        self._authorities = authorities


def largest_of(method: str, largest_reply: int) -> int:
    """Return how many bytes a reply of status 200 may have, unpacked."""
    return LARGEST_LIST if method == "GET" else largest_reply


def read_authorities(path: str) -> bytes:
    """Return the certificates in a PEM file; raises OSError or ValueError if there are none."""
    content = Path(path).read_bytes()
    if "CERTIFICATE" not in content.decode("ascii", "replace"):
        message = "it has no certificate in PEM"
        raise ValueError(message)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    return content


def tls_context(authorities: bytes) -> ssl.SSLContext:
    """Return whom to believe: the system's authorities, or SSL_CERT_FILE's, and these in PEM."""
    context = ssl.create_default_context()
    # Authorities of companies often lack what only this asks of them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if authorities:
        context.load_verify_locations(cadata=authorities.decode("utf-8", "replace"))
    return context


class Reason(NamedTuple):
    """Why no connection came about. words: without secrets."""

    kind: Kind
    words: str


# What the clients' errors say, in lower case and without blanks. The first that is found counts.
_REASONS = (
    ("self-signedcertificate", Reason("tls", "self-signed certificate")),
    ("selfsignedcertificate", Reason("tls", "self-signed certificate")),
    ("unabletogetlocalissuer", Reason("tls", "unknown authority")),
    ("unabletogetissuer", Reason("tls", "unknown authority")),
    ("notvalidfor'", Reason("tls", "wrong host name")),
    ("certificateexpired", Reason("tls", "certificate expired")),
    ("certificatehasexpired", Reason("tls", "certificate expired")),
    ("notyetvalid", Reason("tls", "certificate not valid yet")),
    ("certificateverifyfailed", Reason("tls", "certificate not accepted")),
    ("certificaterequired", Reason("tls", "a client certificate is required")),
    ("wrongversionnumber", Reason("tls", "no TLS there")),
    ("recordlayerfailure", Reason("tls", "no TLS there")),
    ("[ssl", Reason("tls", "no TLS in common")),
    ("connectionrefused", Reason("connect", "refused")),
    ("connectcallfailed", Reason("connect", "refused")),
    ("nameorservicenotknown", Reason("connect", "no such host")),
    ("nodenamenorservname", Reason("connect", "no such host")),
    ("nameresolution", Reason("connect", "no such host")),
    ("noaddressassociated", Reason("connect", "no such host")),
    ("unreachable", Reason("connect", "unreachable")),
    ("tunnel", Reason("connect", "refused by the proxy")),
)


def reason_of(said: str) -> Reason | None:
    """Return why no connection came about, by what a client's error says; None: not known.

    said: without the URL, whose host may have any name.
    """
    text = said.lower().replace(" ", "").replace("_", "")
    return next((reason for words, reason in _REASONS if words in text), None)
