"""What a tier's server is asked at the start, so that nothing is green that is not.

Can it be reached, is its certificate good, does it take our key, does it have our model, does it
answer? The tier's breaker is not asked and hears nothing. What a server says in its own words is
not repeated: it may echo a key.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from difflib import get_close_matches
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import msgspec

from fallback_chain.body import Endpoint
from fallback_chain.classify import OVER_BUDGET, Meaning, classify
from fallback_chain.errors import UpstreamError
from fallback_chain.needs import ONLY_EMBEDDINGS
from fallback_chain.tier import listed_models, normalise_url
from fallback_chain.trial import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fallback_chain.http import Http, Reply
    from fallback_chain.tier import TierConfig

LIST_SECONDS = 10.0  # that a server gets for its list of models
LOOK_SECONDS = 5.0  # that a look at its certificate may take
MOST_NAMED = 10  # models of a server that are named
LONGEST_NAME = 80  # characters of a model's name that are shown
SECURE = "https"
PORTS = {"http": 80, SECURE: 443}
NO_ENTRY = frozenset({401, 403, 407})  # what a server answers to who has not the right key
LIMITS = ("max_tokens", "max_completion_tokens")  # some servers know only the second


class Fault(StrEnum):
    """What is wrong with a tier, so that who is told knows what to do."""

    UNKNOWN_HOST = "unknown host"
    REFUSED = "connection refused"
    UNREACHABLE = "unreachable"
    NO_PROXY = "refused by the proxy"
    NO_CONNECTION = "no connection in time"
    SILENT = "no answer in time"
    BROKEN_OFF = "connection broken off"
    NO_HTTP = "no HTTP"
    NO_TLS = "no TLS"
    SELF_SIGNED = "self-signed certificate"
    UNKNOWN_AUTHORITY = "unknown certificate authority"
    OTHER_HOST = "certificate of another host"
    OUT_OF_DATE = "certificate out of date"
    BAD_CERTIFICATE = "bad certificate"
    KEY_WANTED = "key wanted"
    KEY_REFUSED = "key refused"
    UNPAID = "no credit"
    NO_MODEL = "no such model"
    NO_API = "no such path"
    BUSY = "busy"
    NOT_READY = "not ready"
    NO_ANSWER = "no answer"


class Finding(NamedTuple):
    """What one check of a tier came to. fault: None if all is well. detail: for people, no secret.

    check: reach, tls, key, model or answer.
    """

    check: str
    fault: Fault | None
    detail: str


# What the adapters of the port say of a connection that did not come about.
SAID = {
    "no such host": Fault.UNKNOWN_HOST,
    "refused": Fault.REFUSED,
    "unreachable": Fault.UNREACHABLE,
    "timed out": Fault.NO_CONNECTION,
    "refused by the proxy": Fault.NO_PROXY,
    "no TLS there": Fault.NO_TLS,
    "self-signed certificate": Fault.SELF_SIGNED,
    "unknown authority": Fault.UNKNOWN_AUTHORITY,
    "wrong host name": Fault.OTHER_HOST,
    "certificate expired": Fault.OUT_OF_DATE,
    "certificate not valid yet": Fault.OUT_OF_DATE,
}
OF_KIND = {
    "timeout": Fault.SILENT,
    "tls": Fault.BAD_CERTIFICATE,
    "connect": Fault.UNREACHABLE,
    "reset": Fault.BROKEN_OFF,
    "protocol": Fault.NO_HTTP,
    "too large": Fault.NO_ANSWER,
}
# OpenSSL's numbers (X509_V_ERR_…): it tells apart what other clients call an unknown issuer.
OPENSSL = {
    **dict.fromkeys((9, 10), Fault.OUT_OF_DATE),
    18: Fault.SELF_SIGNED,
    **dict.fromkeys((2, 19, 20, 21), Fault.UNKNOWN_AUTHORITY),
    **dict.fromkeys((62, 64), Fault.OTHER_HOST),
}
OF_TLS = {Fault.NO_TLS, Fault.BAD_CERTIFICATE, *OPENSSL.values()}


async def check_tier(
    config: TierConfig, http: Http, *, direct: bool = True, authorities: str = ""
) -> list[Finding]:
    """Ask a tier's server what a worker would ask it; return what was found, in order.

    direct: it is reached without a proxy, so that its certificate can be looked at. authorities: a
    file of further certificate authorities (PEM). Takes the time of one try at the tier, and some
    seconds, at most. What cannot be known once a check has failed is not in the list.
    """
    began = time.monotonic()
    seconds = min(LIST_SECONDS, config.timeout_seconds)
    try:
        listing = await _sent(config, http, "GET", "/models", seconds)
    except UpstreamError as error:
        if error.kind != "too large":
            return await _unreached(config, error, direct=direct, authorities=authorities)
        listing = None
    found = [Finding("reach", None, f"{_place(config)} replies in {_since(began)}")]
    if urlsplit(config.url).scheme.lower() == SECURE:
        found.append(Finding("tls", None, "its certificate is good"))
    served = listed_models(listing.content) if listing and listing.status == HTTPStatus.OK else []
    answer, meaning, status = await _ask(config, http, served)
    answered = answer.fault is None
    refused = status in NO_ENTRY or (not answered and listing and listing.status in NO_ENTRY)
    if answered or refused:
        found.append(_key(config, refused=bool(refused)))
    if not refused:
        found += _model(config, served, meaning)
    return found if any(each.fault for each in found) else [*found, answer]


async def _sent(
    config: TierConfig, http: Http, method: str, path: str, seconds: float, **body: object
) -> Reply:
    headers = {"content-type": "application/json", "accept": "application/json"}
    if config.api_key:
        headers["authorization"] = f"Bearer {config.api_key}"
    content = msgspec.json.encode(body) if body else None
    url = normalise_url(config.url) + path
    try:
        return await http.request(
            method, url, headers=headers, content=content, timeout_seconds=seconds
        )
    except UpstreamError as error:
        if error.kind != "reset":
            raise
    # What was broken off may be the connection of the last question: some end it behind an error.
    return await http.request(
        method, url, headers=headers, content=content, timeout_seconds=seconds
    )


async def _unreached(
    config: TierConfig, error: UpstreamError, *, direct: bool, authorities: str
) -> list[Finding]:
    """Return what a connection that failed shows."""
    where, fault = _place(config), _fault_of(error)
    secure = urlsplit(config.url).scheme.lower() == SECURE
    if fault is Fault.NO_CONNECTION and secure and direct and await _connects(config):
        fault = Fault.NO_TLS  # it waits for more of what it takes for a request
    if fault not in OF_TLS:
        limit = f" within {LIST_SECONDS:g} s" if fault is Fault.SILENT else ""
        return [Finding("reach", fault, f"{where}: {fault}{limit}")]
    if direct and fault is not Fault.NO_TLS:
        fault = await _certificate_fault(config, authorities) or fault
    connects = Finding("reach", None, f"{where} takes connections")
    return [connects, Finding("tls", fault, f"{where}: {fault}")]


def _fault_of(error: UpstreamError) -> Fault:
    if error.kind in {"connect", "tls"} and (fault := SAID.get(str(error))):
        return fault
    return OF_KIND[error.kind]


async def _connects(config: TierConfig) -> bool:
    """Whether a server takes connections, whatever it makes of them."""
    parts = urlsplit(config.url)
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or PORTS[SECURE])
    except OSError:  # a time-out is one
        return False
    writer.close()
    return True


async def _certificate_fault(config: TierConfig, authorities: str) -> Fault | None:
    """Return what OpenSSL has against a server's certificate; None: nothing, or it cannot say."""
    parts = urlsplit(config.url)
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            context = ssl.create_default_context()
            if authorities:
                context.load_verify_locations(authorities)
            _, writer = await asyncio.open_connection(
                parts.hostname, parts.port or PORTS[SECURE], ssl=context
            )
            writer.close()
    except ssl.SSLCertVerificationError as error:
        return OPENSSL.get(error.verify_code, Fault.BAD_CERTIFICATE)
    except OSError:  # as what TLS says is, and a time-out
        pass
    return None


async def _ask(
    config: TierConfig, http: Http, served: Sequence[str]
) -> tuple[Finding, Meaning, int | None]:
    """Have one token answered, or embedded by a tier that does nothing else.

    Return what that came to, what the reply means, and its status.
    """
    began = time.monotonic()
    model = config.model or (served[0] if served else None)
    embeds = config.accepts == ONLY_EMBEDDINGS
    endpoint = Endpoint.EMBEDDINGS if embeds else Endpoint.CHAT
    body: dict[str, object] = {"messages": [{"role": "user", "content": "Hi"}]}
    if embeds:
        body = {"input": "Hi"}
    if model:
        body["model"] = model
    path = endpoint.removeprefix("/v1")
    try:
        for limit in LIMITS:
            left = config.timeout_seconds - (time.monotonic() - began)
            limited = {} if embeds else {limit: 1}
            reply = await _sent(config, http, "POST", path, left, **body, **limited)
            if reply.status != HTTPStatus.BAD_REQUEST or LIMITS[1].encode() not in reply.content:
                break
    except UpstreamError as error:
        fault = _fault_of(error)
        limit = f" within {config.timeout_seconds:g} s" if fault is Fault.SILENT else ""
        return Finding("answer", fault, f"{fault}{limit}"), Meaning(Verdict.FAILURE), None
    meaning = classify(reply, time.time(), strict=config.strict_finish, endpoint=endpoint)
    if meaning.verdict is Verdict.ANSWERED:
        by = f" by {_named(meaning.model)}" if meaning.model else ""
        what = "one embedding" if embeds else "one token"
        return Finding("answer", None, f"{what} in {_since(began)}{by}"), meaning, reply.status
    detail = f"HTTP 200, but no answer in it: {meaning.detail}"
    if reply.status != HTTPStatus.OK:
        detail = f"HTTP {reply.status} for {endpoint}"
    return Finding("answer", _fault_in(reply, meaning), detail), meaning, reply.status


def _fault_in(reply: Reply, meaning: Meaning) -> Fault:
    """Return what a reply that is no answer shows."""
    if meaning.verdict is Verdict.SATURATED:
        return Fault.BUSY
    if meaning.verdict is Verdict.MISCONFIGURED:
        is_unpaid = reply.status in {402, 429, 529} or meaning.detail.endswith(OVER_BUDGET)
        return Fault.UNPAID if is_unpaid else Fault.NO_API
    return Fault.NOT_READY if reply.status == HTTPStatus.SERVICE_UNAVAILABLE else Fault.NO_ANSWER


def _key(config: TierConfig, *, refused: bool) -> Finding:
    has_key = bool(config.api_key or "@" in urlsplit(config.url).netloc)
    if not refused:
        return Finding("key", None, "accepted" if has_key else "none is set, and none is wanted")
    if has_key:
        return Finding("key", Fault.KEY_REFUSED, "the server refuses the key")
    return Finding("key", Fault.KEY_WANTED, "the server wants a key, and none is set")


def _model(config: TierConfig, served: Sequence[str], meaning: Meaning) -> list[Finding]:
    """Return what is known of the tier's model: it is there, or it is not, or nothing."""
    wanted, answered = config.model, meaning.verdict is Verdict.ANSWERED
    has = f"it has {_listing(served)}" if served else "it lists none"
    unlisted = bool(wanted and served and wanted not in served)
    if not answered and (meaning.no_such_model or unlisted):
        if not wanted:
            return [Finding("model", Fault.NO_MODEL, f"a model must be named; {has}")]
        by_lower = {each.lower(): each for each in served}
        near = get_close_matches(wanted.lower(), by_lower, n=1)
        meant = f" (did you mean {_named(by_lower[near[0]])}?)" if near else ""
        detail = f"it does not have {_named(wanted)}{meant}; {has}"
        return [Finding("model", Fault.NO_MODEL, detail)]
    if wanted and wanted not in served:
        return [Finding("model", None, f"{_named(wanted)} answers; {has}")] if answered else []
    if wanted or served:
        return [Finding("model", None, f"{_named(wanted or served[0])} is there")]
    return [Finding("model", None, "the server needs no name of one")] if answered else []


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(_named, names[:MOST_NAMED])) + more


def _named(model: str) -> str:
    return model if len(model) <= LONGEST_NAME else f"{model[:LONGEST_NAME]}…"


def _place(config: TierConfig) -> str:
    """Return host and port: neither a user, nor a password, nor a path."""
    parts = urlsplit(config.url)
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or PORTS[parts.scheme.lower()]}"


def _since(began: float) -> str:
    seconds = time.monotonic() - began
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
