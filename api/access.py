"""Who may ask what: API keys, their name spaces, the admin role, and their limits."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request

from api.errors import ApiError, on_outage
from api.metrics import UNROUTED
from tasks.errors import SettingsError, StoreUnavailable
from tasks.keys import Key, KeyRing

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from tasks.settings import Settings

OPEN = frozenset({"/", "/health", "/health/ready", "/docs", "/openapi.json"})
OPEN_FOLDERS = ("/docs/static/", "/static/")
ADMIN = ("/circuit-breakers", "/metrics")
ANYBODY = Key("none", "default", "", admin=True)  # without keys everybody is one and the same
RUNNING_MS = 180_000  # after which a request that never ended counts no more


def key_ring(settings: Settings) -> KeyRing:
    """Return the keys that the settings name; raises SettingsError."""
    path = Path(settings.keys_file) if settings.keys_file else None
    return KeyRing(settings.api_keys, path)


def check_exposure(settings: Settings, keys: KeyRing) -> None:
    """Raise SettingsError for a server that anybody on the network could use."""
    if keys or settings.allow_no_keys or _is_loopback(settings.host):
        return
    message = (
        f"FALLTHROUGH_HOST: {settings.host} is reachable from elsewhere and there are no API keys: "
        "make one with `fallthrough keys create NAME`, or set FALLTHROUGH_ALLOW_NO_KEYS=1"
    )
    raise SettingsError(message)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Access:
    """ASGI middleware: every request but the open ones has a key, when there are any."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: KeyRing) -> None:
        self._app, self._settings, self._keys = app, settings, keys
        # Once there were keys, losing the last of them must not open the door.
        self._needed = bool(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        self._needed = self._needed or bool(self._keys)
        if not self._needed or path in OPEN or path.startswith(OPEN_FOLDERS):
            scope.setdefault("state", {})["key"] = ANYBODY
            await self._app(scope, receive, send)
            return
        key = self._key(Request(scope))
        if key is None:
            message = "give a valid API key: Authorization: Bearer KEY"
            refused = ApiError(
                401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
            )
        elif path.startswith(ADMIN) and not key.admin:
            refused = ApiError(403, "this needs an admin's key", code="admin_only")
        else:
            scope.setdefault("state", {})["key"] = key
            await self._limited(key, scope, receive, send)
            return
        await _refuse(refused, scope, receive, send)

    def _key(self, request: Request) -> Key | None:
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        return self._keys.find(secret.strip()) if kind.lower() == "bearer" and secret else None

    async def _limited(self, key: Key, scope: Scope, receive: Receive, send: Send) -> None:
        rate, most = self._settings.key_requests_per_minute, self._settings.key_concurrency
        if not rate and not most:
            await self._app(scope, receive, send)
            return
        store, token = scope["app"].state.services.store, os.urandom(8).hex()
        try:
            given, left, reset_ms, which = await store.run(
                "admit", key.owner, rate, most, token, RUNNING_MS
            )
        except StoreUnavailable as error:
            response = await on_outage(Request(scope), error)
            await response(scope, receive, send)
            return
        told = {
            "x-ratelimit-limit-requests": str(rate),
            "x-ratelimit-remaining-requests": str(left),
            "x-ratelimit-reset-requests": f"{int(reset_ms) / 1000:.3f}s",
        }
        if not given:
            what = f"{rate} requests a minute" if which == b"rate" else f"{most} requests at once"
            message = f"this key may send {what}; try again later"
            headers = {**told, "Retry-After": str(-(-int(reset_ms) // 1000))}
            refused = ApiError(429, message, code="rate_limit_exceeded", headers=headers)
            await _refuse(refused, scope, receive, send)
            return
        added = [(name.encode(), value.encode()) for name, value in told.items()] if rate else []

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            await self._app(scope, receive, tell)
        finally:
            if most:
                await store.leave(key.owner, token)


async def _refuse(refused: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    scope["app"].state.metrics.answered(scope["method"], UNROUTED, refused.status, 0.0)
    await refused.response()(scope, receive, send)
