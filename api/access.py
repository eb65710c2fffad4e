"""Who may ask what: API keys, their name spaces, the admin role, and their limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from starlette.requests import Request

from api.errors import ApiError, on_outage
from tasks.errors import StoreUnavailable
from tasks.hosts import is_loopback, may_be_called, origins_of
from tasks.keys import Key, KeyRing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from tasks.settings import Settings
    from tasks.store.limits import Admission, Limits

PROBES = frozenset({"/health", "/health/ready"})  # Kubernetes and load balancers ask by address
OPEN = PROBES | {"", "/docs", "/openapi.json"}  # or with a slash
OPEN_FOLDERS = ("/docs/static/", "/static/")
ADMIN = ("/circuit-breakers", "/metrics", "/v1/operations", "/operations")
ANYBODY = Key("none", "default", "", admin=True)  # without keys everybody is one and the same
MOST_NAMES = 100  # of this server's that are remembered, each with its port
FREE_GUESSES, FORGIVEN_A_SECOND = 100, 0.2  # wrong keys of one address
WRONG_SECONDS = 1.0  # what a further one costs
MOST_ADDRESSES = 10_000  # that are remembered for wrong keys
LEASE_SECONDS = 15.0  # after which a request whose server crashed counts no more
LIMIT_HEADERS = tuple(
    f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")
)  # of one who is limited
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})  # methods that change nothing

log = logging.getLogger(__name__)


class RequestLimits:
    """The limited requests that run here: each holds leave of its owner's, and keeps it.

    Leave is a lease: all of it is renewed by one call, and that of a server that crashed is free
    soon.
    """

    def __init__(self, limits: Limits, lease_seconds: float = LEASE_SECONDS) -> None:
        self._limits, self._lease = limits, lease_seconds
        self._held: dict[str, str] = {}  # token -> owner

    async def admit(self, owner: str, per_minute: int, at_once: int) -> Admission:
        """Ask for leave to run a request; raises StoreUnavailable."""
        admission = await self._limits.admit(owner, per_minute, at_once, self._lease)
        if at_once and not admission.full:
            self._held[admission.token] = owner
        return admission

    async def release(self, token: str) -> None:
        """Give leave back, if there is any to give."""
        owner = self._held.pop(token, None)
        if owner is not None:
            await self._limits.release_request(owner, token)

    async def keep(self) -> None:
        """Renew what is held; run until cancelled."""
        while True:
            await asyncio.sleep(self._lease / 5)
            held = dict(self._held)
            if not held:
                continue
            requests = ((owner, token) for token, owner in held.items())
            with contextlib.suppress(StoreUnavailable):
                await self._limits.renew_requests(self._lease, requests)
            # What was released meanwhile may have been brought back by it.
            for token in held.keys() - self._held.keys():
                await self._limits.release_request(held[token], token)


class WrongKeys:
    """How often each address came with a wrong key of late: guessing is made slow, for it alone."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, tuple[float, float]] = OrderedDict()  # wrong keys, since when

    def wait_of(self, address: str, now: float) -> float:
        """Count one more; return the seconds after which it is answered. now: seconds."""
        count, then = self._last.pop(address, (0.0, now))
        # They are forgiven one by one.
        count = max(count - (now - then) * FORGIVEN_A_SECOND, 0.0) + 1
        self._last[address] = count, now
        if len(self._last) > MOST_ADDRESSES:
            self._last.popitem(last=False)
        return WRONG_SECONDS if count > FREE_GUESSES else 0.0


class Access:
    """ASGI middleware: every request but the open ones has a key, when there are any."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: KeyRing) -> None:
        self._app, self._settings, self._keys = app, settings, keys
        # A file without keys, or none where it should be, must not open the door.
        self._needed = bool(settings.keys_file) or bool(keys)
        # Who serves the network without keys does so on purpose, under any name.
        self._by_any_name = not is_loopback(settings.host) and not settings.allowed_hosts
        self._origins = {origin.encode() for origin in origins_of(settings.cors_origins)}
        self._wrong_keys = WrongKeys()
        self._names: set[bytes] = set()  # by which it was called, and may be
        if self._needed and not keys:
            log.warning(
                "FALLTHROUGH_KEYS_FILE: there is no key in %s, so nobody may come in: "
                "make one with `fallthrough keys create NAME`",
                settings.keys_file,
            )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        if self._needed:
            return self._with_key(scope, receive, send)
        by_any_name = self._by_any_name or scope["path"] in PROBES
        if not (by_any_name or self._is_called_well(scope["headers"])):
            message = (
                "without an API key this server answers to localhost alone: name others that it "
                "has in FALLTHROUGH_ALLOWED_HOSTS"
            )
            return _refuse(ApiError(403, message, code="unknown_host"), scope, receive, send)
        if scope["method"] not in SAFE and self._is_cross_site(scope["headers"]):
            message = "without an API key a page of another site may change nothing here"
            return _refuse(ApiError(403, message, code="cross_site"), scope, receive, send)
        return self._by_anybody(scope, receive, send)

    def _is_called_well(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        # Every browser says whom it calls; who is none may leave it out.
        host = next((value for name, value in headers if name == b"host"), None)
        if host is None or host in self._names:
            return True
        good = may_be_called(host.decode("latin-1"), self._settings.allowed_hosts)
        if good and len(self._names) < MOST_NAMES:
            self._names.add(host)
        return good

    def _is_cross_site(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        origin = next((value for name, value in headers if name == b"origin"), None)
        invited = origin is not None and not self._origins.isdisjoint({origin, b"*"})
        return not invited and _is_cross_site(headers)

    def _by_anybody(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope.setdefault("state", {})["key"] = ANYBODY
        return self._app(scope, receive, send)

    async def _with_key(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path.rstrip("/") in OPEN or path.startswith(OPEN_FOLDERS):
            await self._by_anybody(scope, receive, send)
            return
        key = self._key(Request(scope))
        if key is None:
            address = (scope.get("client") or ("", 0))[0]
            await asyncio.sleep(self._wrong_keys.wait_of(address, time.monotonic()))
            message = "give a valid API key: Authorization: Bearer KEY"
            refusal = ApiError(
                401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
            )
        elif path.startswith(ADMIN) and not key.admin:
            refusal = ApiError(403, "this needs an admin's key", code="admin_only")
        else:
            scope.setdefault("state", {})["key"] = key
            await self._limited(key, scope, receive, send)
            return
        await _refuse(refusal, scope, receive, send)

    def _key(self, request: Request) -> Key | None:
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        return self._keys.find(secret.strip()) if kind.lower() == "bearer" and secret else None

    async def _limited(self, key: Key, scope: Scope, receive: Receive, send: Send) -> None:
        rate, most = self._settings.key_requests_per_minute, self._settings.key_concurrency
        if not rate and not most:
            await self._app(scope, receive, send)
            return
        limits: RequestLimits = scope["app"].state.services.request_limits
        try:
            admission = await limits.admit(key.owner, rate, most)
        except StoreUnavailable as error:
            response = await on_outage(Request(scope), error)
            await response(scope, receive, send)
            return
        told = (str(rate), str(admission.remaining), f"{admission.reset_seconds:.3f}s")
        limit_headers = dict(zip(LIMIT_HEADERS, told, strict=True))
        if not rate:
            limit_headers = {}
        if admission.full:
            by_rate = admission.full == "rate"
            what = f"{rate} requests a minute" if by_rate else f"{most} requests at once"
            message = f"this key may send {what}; try again later"
            # A request may end at any moment; the minute is over when it is over.
            seconds = math.ceil(admission.reset_seconds) if by_rate else 1
            headers = {**limit_headers, "Retry-After": str(seconds)}
            refusal = ApiError(429, message, code="rate_limit_exceeded", headers=headers)
            scope["app"].state.metrics.turned_away("rate_limit_exceeded")
            await _refuse(refusal, scope, receive, send)
            return
        raw_headers = [(name.encode(), value.encode()) for name, value in limit_headers.items()]

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *raw_headers]
            await send(message)

        try:
            await self._app(scope, receive, send_with_limits)
        finally:
            await limits.release(admission.token)


def _is_cross_site(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a browser sends this for a page that is not this server's.

    Without keys a page of any site could have its visitor's browser post here. Who is no browser
    sends neither header.
    """
    site = origin = host = None
    for name, value in headers:
        if name == b"host":
            host = value
        elif name == b"origin":
            origin = value
        elif name == b"sec-fetch-site":
            site = value
    # The browser knows best: through a proxy the hosts may differ.
    if site in (b"same-origin", b"none", b"cross-site"):
        return site == b"cross-site"
    return origin is not None and origin.rpartition(b"://")[2] != host


async def _refuse(refusal: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    scope["app"].state.metrics.refused(scope["method"], refusal.status)
    await refusal.response()(scope, receive, send)
