"""kombu's Redis transport, with three faults mended.

They are closed connections, a new client for every command, and messages that a worker which
stops has asked for and never looks at.
"""

from __future__ import annotations

import contextlib
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis


class Channel(redis.Channel):
    """A channel that says so when its connection is gone, and keeps its client."""

    _kept: tuple[Any, Any] | None = None  # the pool, and the client over it

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's
        # kombu makes a new client, with all its tables, for every command that it sends: a tenth
        # of what publishing costs. A client over a pool holds no connection, and any thread may
        # use it.
        if asynchronous:
            return super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
        pool = self.pool
        if self._kept is None or self._kept[0] is not pool:
            self._kept = pool, self.Client(connection_pool=pool)
        return self._kept[1]

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - kombu's signature
        # A slice that ends after the broker went away acknowledges over the connection it came by.
        # kombu trips over `None` there, and its AttributeError ends the whole worker; this error
        # is among `connection_errors`, which celery logs.
        if self.connection.client is None:
            msg = "the connection to the broker was lost"
            raise ConnectionResetError(msg)
        parameters: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        return parameters

    def let_go(self) -> None:
        """Wait for the pop that is under way, a second at most; what it brings goes back."""
        if self._in_poll:
            with contextlib.suppress(Empty, *self.connection_errors):
                self._brpop_read()  # type: ignore[no-untyped-call]


class Transport(redis.Transport):
    """The transport of redis:// and rediss:// URLs."""

    Channel = Channel


def use() -> None:
    """Have kombu take this transport wherever a URL says redis:// or rediss://."""
    ours = "tasks.broker.transport:Transport"
    TRANSPORT_ALIASES.update(redis=ours, rediss=ours)
