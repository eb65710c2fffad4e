"""A create that is sent again finds what it made the first time.

Two ways to tell: an Idempotency-Key header; or, without one, the openai SDK's own count of its
retries, which it sends silently after a lost answer, with the same body.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from api.errors import bad
from api.paging import whole
from api.schemas import HANDLING_PREFIX
from tasks.records.idempotency import IdempotencyKey

if TYPE_CHECKING:
    from starlette.requests import Request

LONGEST_KEY = 255
RETRY_HEADER = "x-stainless-retry-count"
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS, WAY_SECONDS = 0.5, 8.0, 0.4
# For the descriptions of what goes by them.
KEY_HEADER = {"Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY}}
REUSED = {"422": "this Idempotency-Key stands for another request"}


def idempotency_keys(request: Request, content: bytes) -> list[IdempotencyKey]:
    """Return the keys that a create goes by.

    content: what makes it the same: the body, or a digest of it; and so do the headers that say how
    it is handled. A digest goes along: who sends something else with the same Idempotency-Key is
    told so.
    """
    key, count = request.headers.get("idempotency-key"), request.headers.get(RETRY_HEADER)
    if key is None and count is None:
        return []
    path = request.scope["path"].removeprefix("/v1")
    said = hashlib.blake2b(content, digest_size=16)
    for name, value in sorted(request.headers.items()):
        if name.startswith(HANDLING_PREFIX):
            said.update(f"\0{name}: {value}".encode())
    digest = said.hexdigest()
    if key is not None:
        if not 1 <= len(key) <= LONGEST_KEY:
            raise bad(f"Idempotency-Key: must have 1 to {LONGEST_KEY} characters")
        return [IdempotencyKey(f"key:{path}:{key}", digest, lookup=True)]
    retried = bool(whole(count or ""))
    return [IdempotencyKey(f"body:{path}:{digest}", digest, lookup=retried, own=False)]


def back_seconds(request: Request) -> float | None:
    """Return in how many seconds a client that leaves comes back, if it retries by itself.

    None: nobody knows. The SDKs wait half a second before their first retry, twice as long before
    each further one, up to eight seconds; and then the request takes its way.
    """
    count = whole(request.headers.get(RETRY_HEADER, ""))
    if count is None or "idempotency-key" in request.headers:
        return None
    return float(min(FIRST_RETRY_SECONDS * 2 ** min(count, 8), LAST_RETRY_SECONDS)) + WAY_SECONDS


def chat_keys(request: Request, content: bytes) -> list[IdempotencyKey]:
    """Return the keys by which a caller who waits for his answer asks for it again.

    Other callers may send the same words: only who has left without an answer leaves a key of them
    behind, and only one who sends them again finds it.
    """
    return [
        key if key.own else key._replace(once=True) for key in idempotency_keys(request, content)
    ]
