"""kombu's Redis transport, with one fault mended: the use of a connection that was closed."""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis


class Channel(redis.Channel):
    """A channel that says so when its connection is gone."""

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - kombu's signature
        # A slice that ends after the broker went away acknowledges over the connection it came by.
        # kombu trips over `None` there, and its AttributeError ends the whole worker; this error
        # is among `connection_errors`, which celery logs.
        if self.connection.client is None:
            msg = "the connection to the broker was lost"
            raise ConnectionResetError(msg)
        parameters: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        return parameters


class Transport(redis.Transport):
    """The transport of redis:// and rediss:// URLs."""

    Channel = Channel


def use() -> None:
    """Have kombu take this transport wherever a URL says redis:// or rediss://."""
    TRANSPORT_ALIASES.update(redis="tasks.broker:Transport", rediss="tasks.broker:Transport")
