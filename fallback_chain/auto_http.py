"""The cheapest client where calls are short; where they last, one whose calls can be cut off.

A call that nobody waits for any more must not keep its server busy. pyreqwest costs the least, but
a call of it goes on to its end. That is no matter where calls end within a second anyway, and only
there the cost of a call is one: a server that takes a second for an answer gets few of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from fallback_chain.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from fallback_chain.http import Http, Reply, StreamedReply

SHORT_SECONDS = 0.8  # a call that takes no longer is over before it could be missed
ANSWERED = 200  # HTTP's status
CALLS = 32  # calls in a row that must be short before those of a server are taken to be


class _Server:
    """How long a server's last calls took."""

    def __init__(self) -> None:
        self._are_long: deque[bool] = deque(maxlen=CALLS)
        self._long = 0
        self.not_quick = False  # the quick client does not get through to it

    @property
    def is_quick(self) -> bool:
        """Whether each of them was short."""
        return len(self._are_long) == CALLS and not self._long and not self.not_quick

    def took(self, seconds: float) -> None:
        """Note a call."""
        if len(self._are_long) == CALLS:
            self._long -= self._are_long[0]
        is_long = seconds > SHORT_SECONDS
        self._are_long.append(is_long)
        self._long += is_long


class AutoHttp:
    """Two clients in front of each server; belongs to one event loop."""

    def __init__(self, quick: Http, cut_off: Http) -> None:
        """quick: costs the least. cut_off: closes the connection of a call that is cancelled."""
        self._quick, self._cut_off = quick, cut_off
        self._servers: dict[str, _Server] = {}

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | None,
        timeout_seconds: float,
    ) -> Reply:
        """Send one request, by the client that fits how long its server takes of late."""
        host = url.split("/", 3)[2]
        server = self._servers.get(host) or self._servers.setdefault(host, _Server())
        began = time.monotonic()

        async def ask(http: Http) -> Reply:
            left = timeout_seconds - (time.monotonic() - began)
            return await http.request(
                method, url, headers=headers, content=content, timeout_seconds=left
            )

        reply = None
        try:
            reply = await self._ask(server, ask)
            return reply
        finally:
            took = time.monotonic() - began
            # What was turned away, or failed, at once says nothing of how long an answer takes.
            if method == "POST" and (took > SHORT_SECONDS or (reply and reply.status == ANSWERED)):
                server.took(took)

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | None,
        timeout_seconds: float,
    ) -> AbstractAsyncContextManager[StreamedReply]:
        """Send one request by the client whose calls can be cut off: a stream lasts."""
        return self._cut_off.stream(
            method, url, headers=headers, content=content, timeout_seconds=timeout_seconds
        )

    async def _ask(self, server: _Server, ask: Callable[[Http], Awaitable[Reply]]) -> Reply:
        if server.is_quick:
            try:
                return await ask(self._quick)
            except UpstreamError as error:
                if error.kind != "tls":
                    raise
                server.not_quick = True  # nothing was sent: the two believe not quite the same
        return await ask(self._cut_off)

    async def aclose(self) -> None:
        """Close the connections of both."""
        await asyncio.gather(self._quick.aclose(), self._cut_off.aclose())
