"""A model server as a tier: its breaker asked first, its limits kept, its reply judged."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from codecs import BOM_UTF8
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from circuit_breaker import CircuitBreaker, CircuitState, Outcome, Permit, Refusal
from fallback_chain.body import Body, Endpoint
from fallback_chain.classify import NO_SUCH_MODEL, Meaning, classify, is_doubtful
from fallback_chain.errors import BrokenStreamError, UpstreamError
from fallback_chain.fit import NO_JSON, check, without_fence
from fallback_chain.http import Reply
from fallback_chain.needs import lacks
from fallback_chain.streaming import Streaming
from fallback_chain.streams import EVENT_STREAM
from fallback_chain.trial import (
    LACKS,
    MISFIT,
    STALLED,
    UNCHECKED,
    Attempt,
    Trial,
    Verdict,
    outcome_of,
)
from fallback_chain.urgency import NOTHING, told

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Mapping

    from fallback_chain.http import Http
    from fallback_chain.needs import Need, Needs
    from fallback_chain.streams import Sink
    from fallback_chain.urgency import Told

PRIORITY = b"priority"  # what a server that takes none complains of
STREAM_OPTIONS = b"stream_options"  # as above
MODEL = b"model"  # what a server that was named none, and has none, complains of
AWAY = frozenset({502, 503, 504})  # of a list of models: there is no server behind it
# Of the time that a try may last: a server that says nothing for so long was given it.
FAIR_SHARE = 0.75
REQUEST_ID = "x-request-id"
TOO_LARGE = "answer too large"  # why a request for embeddings does not fit
KNOCK_SECONDS = 5.0  # that a server gets to list its models, as a probe
MODELS_SECONDS = 300.0  # how long a server's list of models is believed
NO_MODELS_SECONDS = 5.0  # the same, of an empty one
LIST_SECONDS = 5.0  # that a tier with a model of its own waits for the list
# Of the seed's tiers; another's begins with "tier_".
BREAKER_NAMES = {"gpu": "max_gpu", "cpu": "ollama_cpu", "cache": "redis_cache"}

CANCELLED = Meaning(Verdict.CANCELLED)

_BETWEEN_URLS = re.compile(r"[\s,]+(?=https?://)|[\s,]+$", re.IGNORECASE)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TierConfig:
    """A server that speaks OpenAI's API. url: with or without /v1. model: None = found.

    Or several: their URLs, parted by commas or blanks; number: which of them this one is, from 1.
    strict_finish: a choice without a reason to finish was interrupted; some servers leave it out.
    accepts: what a request may need of it; None: anything. checked: an answer that does not fit its
    request is none; otherwise it is only marked. adapts: how many call it at once follows what it
    bears, so that a server which is busy, and does not say for how long, is not held for it.
    priority: how it is told the urgency of a call: see fallback_chain.urgency. Of a stream its
    first_token_seconds (0: timeout_seconds) and next_token_seconds are the limits.
    """

    name: str
    url: str
    model: str | None
    api_key: str | None = field(repr=False)
    timeout_seconds: float
    strict_finish: bool = True
    accepts: frozenset[Need] | None = None
    checked: bool = False
    number: int = 1
    adapts: bool = False
    priority: str = "off"
    first_token_seconds: float = 0.0
    next_token_seconds: float = 30.0

    @property
    def breaker_name(self) -> str:
        """The name of the breaker in front of it."""
        return breaker_name(self.name, self.number)

    @property
    def endpoints(self) -> list[TierConfig]:
        """Each of its servers; of a tier without a URL its one that has none."""
        urls = split_urls(self.url) or [""]
        return [replace(self, url=url, number=number) for number, url in enumerate(urls, 1)]


def breaker_name(tier: str, number: int) -> str:
    """Return the name of the breaker of a tier's server; number: from 1, or 0 for its only one."""
    name = BREAKER_NAMES.get(tier, f"tier_{tier}")
    return name if number <= 1 else f"{name}:{number}"


def split_urls(text: str) -> list[str]:
    """Return the URLs in a text, parted by commas or blanks."""
    return [url for url in _BETWEEN_URLS.split(text.strip()) if url]


def normalise_url(url: str) -> str:
    """Return the base that ends in /v1, however it was given."""
    base = url.rstrip("/")
    for ending in ("/chat/completions", "/v1"):
        base = base.removesuffix(ending).rstrip("/")
    return f"{base}/v1"


class _Asked(NamedTuple):
    body: Body
    endpoint: str
    headers: Mapping[str, str]
    stream: Streaming | None = None


class Tier(Protocol):
    """What a model tier is to those who ask it, with one server (ChatTier) or with several."""

    config: TierConfig

    def refusal(self) -> Refusal | None:
        """Return what ask() would be refused with, as far as is known here; no I/O."""

    def reject(self) -> Refusal | None:
        """Refuse as ask() would, as far as is known here, and count it; no I/O."""

    @property
    def closed(self) -> bool:
        """Whether calls go through as if nothing had happened, as last seen here; no I/O."""

    @property
    def well(self) -> bool:
        """Whether it takes every call, as last seen here; no I/O."""

    @property
    def share(self) -> float:
        """The share of calls that it takes now, as last seen here: from 0 to 1; no I/O."""

    async def due_seconds(self) -> float:
        """Ask the store in how many seconds a call may be let through; 0: now."""

    async def knock(self) -> None:
        """Ask what is due for a probe for its models, which costs no tokens."""

    async def models(self) -> list[str]:
        """Return the models that it says it has; raises UpstreamError."""

    def misfit(self, needs: Needs) -> Trial | None:
        """Return the try of a request that it is known not to take; None: it may."""

    async def ask(
        self,
        body: Body | Mapping[str, Any],
        timeout_seconds: float | None = None,
        endpoint: str = Endpoint.CHAT,
        request_id: str = "",
        sink: Sink | None = None,
    ) -> Trial:
        """Try to get an answer; see ChatTier.ask()."""


class ChatTier:
    """Asks one model server; belongs to one event loop."""

    def __init__(self, config: TierConfig, breaker: CircuitBreaker, http: Http) -> None:
        self.config = config
        self.breaker = breaker
        self._http = http
        self._base = normalise_url(config.url)
        self._headers = {"content-type": "application/json", "accept": "application/json"}
        if config.api_key:
            self._headers["authorization"] = f"Bearer {config.api_key}"
        self._takes_priority = True  # as far as is known
        self._counts_streams = True  # as above
        self._models: list[str] | None = None
        self._models_until = 0.0
        self._finding: asyncio.Task[list[str]] | None = None

    # What its breaker says of it, for who must not know whether there is one or several

    def refusal(self) -> Refusal | None:
        """Return what ask() would be refused with, as far as is known here; no I/O."""
        return self.breaker.refusal()

    def reject(self) -> Refusal | None:
        """Refuse as ask() would, as far as is known here, and count it; no I/O."""
        return self.breaker.reject()

    @property
    def closed(self) -> bool:
        """Whether calls go through as if nothing had happened, as last seen here; no I/O."""
        return self.breaker.state is CircuitState.CLOSED

    @property
    def share(self) -> float:
        """The share of calls that it takes now, as last seen here: from 0 to 1; no I/O."""
        return self.breaker.share

    @property
    def well(self) -> bool:
        """Whether it takes every call, as last seen here; no I/O."""
        return self.closed and self.refusal() is None

    async def due_seconds(self) -> float:
        """Ask the store in how many seconds a call may be let through; 0: now.

        While others probe it: until the first of them counts as lost; it may end before.
        """
        view = await self.breaker.view()
        probed = view.probes >= self.breaker.config.half_open_permits
        return max(view.retry_after_seconds, view.lease_seconds if probed else 0.0)

    # Its server

    def serves(self, model: str) -> bool:
        """Whether it is known to have a model, and answers with no other; no I/O."""
        return model == self.config.model or _named(model, self._models or ()) is not None

    async def ask(
        self,
        body: Body | Mapping[str, Any],
        timeout_seconds: float | None = None,
        endpoint: str = Endpoint.CHAT,
        request_id: str = "",
        sink: Sink | None = None,
    ) -> Trial:
        """Try to get an answer.

        timeout_seconds: what is left of the caller's own deadline; of a stream until its first
        word. request_id: what the server is told as x-request-id; it must be this call's alone, as
        some servers go by it. sink: who is given the answer as it comes, from its first word on;
        once he was, no other try can answer.
        """
        began = time.monotonic()
        body = Body.of(body)
        needs = body.needs
        if lacking := self._lacking(needs):
            return self._trial(began, lacking)
        permit = await self.breaker.acquire()
        if isinstance(permit, Refusal):
            return self._trial(began, Meaning(Verdict.REJECTED, permit.reason))
        meaning, reply = CANCELLED, None
        stream = None
        if sink is not None:
            buffered = self.config.checked and needs.checkable
            stream = Streaming(
                sink, self.config, legacy=endpoint == Endpoint.COMPLETIONS, buffered=buffered
            )
            if permit.probe:
                stream.at_first(partial(self._record, permit, Meaning(Verdict.ANSWERED)))
        try:
            headers = {**self._headers, REQUEST_ID: request_id} if request_id else self._headers
            asked = _Asked(body, endpoint, headers, stream)
            meaning, reply = await self._limited(asked, timeout_seconds)
        finally:
            if stream is None or stream.first_seconds is None:
                await self._record(permit, meaning, time.monotonic() - began)
            else:
                await self._record_stream(permit, meaning, stream, stream.first_seconds)
        if meaning.answer is not None and (needs.checkable or meaning.answer.calls_a_tool):
            meaning, reply = self._fitted(meaning, reply, needs)
        trial = self._trial(began, meaning, reply)
        if stream is None:
            return trial
        rest = stream.rest() if meaning.verdict is Verdict.ANSWERED else None
        return msgspec.structs.replace(trial, rest=rest, pace=stream.pace)

    def misfit(self, needs: Needs) -> Trial | None:
        """Return the try of a request that this tier is known not to take; None: it may."""
        lacking = self._lacking(needs)
        return self._trial(time.monotonic(), lacking) if lacking else None

    def _lacking(self, needs: Needs) -> Meaning | None:
        lacking = lacks(needs, self.config.accepts)
        return Meaning(Verdict.UNFIT, f"{LACKS} {', '.join(lacking)}") if lacking else None

    def _fitted(
        self, meaning: Meaning, reply: Reply | None, needs: Needs
    ) -> tuple[Meaning, Reply | None]:
        """Return what an answer is worth to a request that demands a form.

        Its server is well: the breaker does not count it.
        """
        assert meaning.answer is not None  # noqa: S101 - it was answered
        fit = check(meaning.answer.document, needs)
        if fit.detail == NO_JSON.detail and self.config.checked:
            healed = without_fence(meaning.answer)
            if healed is not None and not check(healed, needs).detail:
                return meaning, Reply(200, {}, msgspec.json.encode(healed))
        if not fit.detail:
            unchecked = "" if fit.checked else UNCHECKED
            return msgspec.structs.replace(meaning, detail=unchecked), reply
        detail = f"{MISFIT} {fit.detail}"
        if self.config.checked:
            return Meaning(Verdict.UNFIT, detail, tokens=meaning.tokens), reply
        return msgspec.structs.replace(meaning, detail=detail, keep=False), reply

    async def models(self) -> list[str]:
        """Return the ids of the models that the server says it has; raises UpstreamError.

        Of a list that cannot be read, those that can: its server may answer all the same.
        """
        reply = await self._http.request(
            "GET",
            f"{self._base}/models",
            headers=self._headers,
            content=None,
            timeout_seconds=self.config.timeout_seconds,
        )
        if reply.status in {404, 405, 501}:  # it serves chat and nothing else
            return []
        if reply.status != 200:  # noqa: PLR2004 - HTTP's own number
            raise _StatusError(reply)
        return listed_models(reply.content)

    async def knock(self) -> None:
        """Ask a server that is due for a probe for its models, which costs no tokens.

        If it does not answer, its breaker opens again. If it does, the next job probes it: a server
        may list its models with a dead engine behind it.
        """
        if self.breaker.state is not CircuitState.OPEN:
            return
        permit = await self.breaker.acquire()
        if isinstance(permit, Refusal):
            return
        outcome = Outcome.IGNORED
        try:
            async with asyncio.timeout(KNOCK_SECONDS):
                await self.models()
        except _StatusError as error:
            if error.reply.status in AWAY:
                outcome = Outcome.FAILURE
        except (UpstreamError, TimeoutError):
            outcome = Outcome.FAILURE
        finally:
            await asyncio.shield(self.breaker.record(permit, outcome))

    async def _record(self, permit: Permit, meaning: Meaning, took: float) -> None:
        outcome = Outcome.FAILURE if meaning.hung else outcome_of(meaning.verdict)
        if meaning.doubtful and outcome is Outcome.FAILURE and not permit.probe:
            outcome = Outcome.IGNORED  # a probe has to say something
        if outcome is Outcome.SATURATED and self.config.adapts and not meaning.retry_after_seconds:
            outcome = Outcome.IGNORED
        recording: Awaitable[object] = self.breaker.record(
            permit, outcome, meaning.retry_after_seconds, took, wait=False
        )
        answered = meaning.verdict is Verdict.ANSWERED
        if permit.probe or not answered:  # of other successes one more or less says nothing
            recording = asyncio.shield(recording)
        try:
            await recording
        except asyncio.CancelledError:
            if not answered:  # else it is kept: nobody has to be asked for it again
                raise

    async def _record_stream(
        self, permit: Permit, meaning: Meaning, stream: Streaming, first_seconds: float
    ) -> None:
        """Count a stream that said a word: as answered, whoever left it, unless it broke off.

        Once: else a server that breaks every stream off would never fail twice in a row. A probe
        was counted at its first word, and not minutes later; that it broke off counts besides.
        """
        broke = meaning.verdict is Verdict.FAILURE
        if not permit.probe:
            counted = meaning if broke else Meaning(Verdict.ANSWERED)
            await self._record(permit, counted, first_seconds)
            return
        await stream.recorded()
        if broke:
            other = await self.breaker.acquire()
            if isinstance(other, Permit):
                await asyncio.shield(self.breaker.record(other, Outcome.FAILURE))

    async def _limited(self, asked: _Asked, left: float | None) -> tuple[Meaning, Reply | None]:
        own = self.config.timeout_seconds
        if asked.stream:
            own = self.config.first_token_seconds or own
        until = time.monotonic() + (own if left is None else min(own, left))
        try:
            return await self._converse(asked, until)
        except TimeoutError:
            pass
        except _StatusError as error:
            meaning = classify(error.reply, time.time())
            if meaning.verdict in {Verdict.REFUSED, Verdict.UNFIT}:
                meaning = Meaning(Verdict.FAILURE, f"HTTP {error.reply.status} for its models")
            return meaning, error.reply
        except (UpstreamError, BrokenStreamError) as error:
            if (why := _reason_of(error)) != "timeout":
                return _unread(why, asked.endpoint), None
        except Exception as error:  # noqa: BLE001 - whatever it is, the next tier may answer
            # Without its words: they may hold a key.
            kind = type(error).__name__
            log.error("a try at tier %s broke off: %s", self.config.name, kind)  # noqa: TRY400
            return Meaning(Verdict.FAILURE, kind), None
        return _late(asked.stream, own, left), None

    async def _converse(self, asked: _Asked, until: float) -> tuple[Meaning, Reply | None]:
        if asked.endpoint == Endpoint.EMBEDDINGS:
            return await self._embed(asked, until)
        model = await self._model_for(asked.body.model, until)
        meaning, reply = await self._post(asked, model, until)
        if meaning.no_such_model:
            self._models = None  # the server was given other models since we looked
            other = await self._model_for(asked.body.model, until)
            if other != model:
                return await self._post(asked, other, until)
        return meaning, reply

    async def _embed(self, asked: _Asked, until: float) -> tuple[Meaning, Reply | None]:
        """Ask for vectors of the very model that is named: another's mean nothing beside them.

        Some servers answer with the one that they have, under any name: their list tells.
        """
        model = asked.body.model
        is_known = self.serves(model)
        is_old = model != self.config.model and time.monotonic() >= self._models_until
        if is_old or not is_known:
            if not is_known:
                self._models = None  # the server may have been given it since we looked
            if _named(model, await self._served(until)) is None:
                return Meaning(Verdict.UNFIT, NO_SUCH_MODEL, error=_no_model(model)), None
        meaning, reply = await self._post(asked, model, until)
        if meaning.no_such_model:
            self._models = None
        return meaning, reply

    async def _post(self, asked: _Asked, model: str | None, until: float) -> tuple[Meaning, Reply]:
        urgency = NOTHING
        if self._takes_priority:
            urgency = told(self.config.priority, asked.body.urgency)
        reply = await self._send(asked, model, until, urgency)
        if urgency != NOTHING and reply.status in {400, 422} and PRIORITY in reply.content.lower():
            refused, reply = reply, await self._send(asked, model, until, NOTHING)
            if reply.status != refused.status:  # else it was the request's own
                self._takes_priority = False
                log.warning(
                    "tier %s takes no priority as %s does: it is told no more",
                    self.config.name,
                    self.config.priority,
                )
        meaning = classify(
            reply,
            time.time(),
            strict=self.config.strict_finish,
            endpoint=asked.endpoint,
            asked=asked.body,
        )
        if asked.body.needs.has_media and is_doubtful(reply):
            meaning = msgspec.structs.replace(meaning, doubtful=True)
        if model is None and meaning.verdict is Verdict.REFUSED and MODEL in reply.content.lower():
            # It has none yet, so we could name none: not the fault of a caller who did not either.
            detail = f"HTTP {reply.status} {NO_SUCH_MODEL}"
            meaning = Meaning(Verdict.UNFIT, detail, error=meaning.error, no_such_model=True)
        named = model == asked.body.model and not self.config.model and not self._models
        if meaning.no_such_model and named:
            # By the caller, at a server that lists none: nothing is wrong with the tier.
            meaning = msgspec.structs.replace(meaning, detail=f"{meaning.detail}, as it was named")
        return meaning, reply

    async def _send(self, asked: _Asked, model: str | None, until: float, urgency: Told) -> Reply:
        if asked.stream:
            reply = await self._send_streamed(asked, model, until, urgency)
        else:
            reply = await self._http.request(
                "POST",
                self._base + asked.endpoint.removeprefix("/v1"),
                headers={**asked.headers, **urgency.headers},
                content=asked.body.sent(model, urgency.fields),
                timeout_seconds=until - time.monotonic(),
            )
        if reply.content.startswith(BOM_UTF8):  # some servers' mark; in JSON it is none
            return msgspec.structs.replace(reply, content=reply.content.removeprefix(BOM_UTF8))
        return reply

    async def _send_streamed(
        self, asked: _Asked, model: str | None, until: float, urgency: Told
    ) -> Reply:
        """Ask for a stream, with its tokens counted by a server that takes that."""
        counted = self._counts_streams
        reply = await self._send_as_stream(asked, model, until, urgency, counted=counted)
        if counted and reply.status in {400, 422} and STREAM_OPTIONS in reply.content.lower():
            refused = reply
            reply = await self._send_as_stream(asked, model, until, urgency, counted=False)
            if reply.status != refused.status:  # else it was the request's own: many repeat it
                self._counts_streams = False
                name = self.config.name
                log.warning("tier %s takes no stream_options: no tokens counted", name)
        return reply

    async def _send_as_stream(
        self, asked: _Asked, model: str | None, until: float, urgency: Told, *, counted: bool
    ) -> Reply:
        """Ask for a stream; return what it came to as if it had come whole."""
        assert asked.stream is not None  # noqa: S101 - the caller looked
        more: dict[str, Any] = {**urgency.fields, "stream": True}
        if counted:
            more["stream_options"] = {"include_usage": True}
        left = until - time.monotonic()
        async with (
            asyncio.timeout(left) as limit,
            self._http.stream(
                "POST",
                self._base + asked.endpoint.removeprefix("/v1"),
                headers={**asked.headers, **urgency.headers, "accept": EVENT_STREAM},
                content=asked.body.sent(model, more),
                timeout_seconds=left,
            ) as streamed,
        ):
            return await asked.stream.read(streamed, limit)

    async def _model_for(self, wanted: str, until: float) -> str | None:
        """Return the model that the request names if it is served here, else the tier's own."""
        if self.config.model and wanted in {"", self.config.model}:
            return self.config.model
        if self.config.model:
            return await self._listed(wanted, until) or self.config.model
        served = await self._served(until)
        return _named(wanted, served) or (served[0] if served else wanted or None)

    async def _listed(self, wanted: str, until: float) -> str | None:
        """Return the model that is named, if the server is known to have it.

        A tier with a model of its own can be asked though its list cannot be had.
        """
        try:
            served = await self._served(min(until, time.monotonic() + LIST_SECONDS))
        except (UpstreamError, TimeoutError) as error:
            why = error if isinstance(error, UpstreamError) else "timeout"
            log.warning("the models of tier %s could not be listed: %s", self.config.name, why)
            served = self._models = []
            self._models_until = time.monotonic() + MODELS_SECONDS
        return _named(wanted, served)

    async def _served(self, until: float) -> list[str]:
        if self._models is not None and time.monotonic() < self._models_until:
            return self._models
        # One asks; all who wait meanwhile share what it gets, a failure too.
        if self._finding is None:
            self._finding = asyncio.create_task(self._find())
            self._finding.add_done_callback(self._found)
        async with asyncio.timeout(until - time.monotonic()):
            return await asyncio.shield(self._finding)

    async def _find(self) -> list[str]:
        listed = await self.models()
        # An empty list, as of a router whose servers start, says nothing of those that it had.
        self._models = listed or self._models or []
        seconds = MODELS_SECONDS if listed else NO_MODELS_SECONDS
        self._models_until = time.monotonic() + seconds
        return self._models

    def _found(self, finding: asyncio.Task[list[str]]) -> None:
        self._finding = None
        if not finding.cancelled():
            finding.exception()  # those who waited have it, if any still do

    def _trial(self, began: float, meaning: Meaning, reply: Reply | None = None) -> Trial:
        attempt = Attempt(
            tier=self.config.name,
            verdict=meaning.verdict,
            milliseconds=round((time.monotonic() - began) * 1000, 1),
            detail=meaning.detail,
            status=reply.status if reply else None,
        )
        answered = meaning.verdict is Verdict.ANSWERED and reply is not None
        return Trial(
            attempt,
            answer=reply.content if answered and reply else None,
            error=meaning.error,
            model=meaning.model,
            retry_after_seconds=meaning.retry_after_seconds,
            tokens=meaning.tokens,
            keep=meaning.keep,
        )


def _named(wanted: str, served: Collection[str]) -> str | None:
    """Return the id of a model that is wanted; None: there is none. Ollama takes it without tag."""
    if wanted in served:
        return wanted
    tagged = f"{wanted}:latest"
    return tagged if tagged in served else None


def _late(stream: Streaming | None, own: float, left: float | None) -> Meaning:
    """Return what it means that time is over. own: the tier's limit; left: the job's, seconds."""
    if stream and stream.first_seconds is not None:
        if stream.stalled:
            return Meaning(Verdict.FAILURE, STALLED)
        return Meaning(Verdict.EXPIRED, "deadline")
    if left is None or left >= own:
        return Meaning(Verdict.FAILURE, "timeout")
    return Meaning(Verdict.EXPIRED, "deadline", hung=left >= FAIR_SHARE * own)


def _unread(why: str, endpoint: str) -> Meaning:
    """Return what it means that no reply was read."""
    if why == "too large" and endpoint == Endpoint.EMBEDDINGS:
        return Meaning(Verdict.UNFIT, TOO_LARGE)  # of so many inputs; fewer will do
    return Meaning(Verdict.FAILURE, why)


def _no_model(name: str) -> dict[str, Any]:
    """Return OpenAI's error object of a model that is not served."""
    return {
        "message": f"the model {name!r} is not served: GET /v1/models lists those that are",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def listed_models(content: bytes) -> list[str]:
    """Return the ids in a list of models; of one that cannot be read, those that can."""
    try:
        listed: Any = msgspec.json.decode(content.removeprefix(BOM_UTF8))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return []
    entries = listed.get("data") if isinstance(listed, dict) else listed
    ids = (
        [entry.get("id") for entry in entries or () if isinstance(entry, dict)]
        if isinstance(entries, list)
        else []
    )
    return [name for name in ids if isinstance(name, str) and name]


def _reason_of(error: UpstreamError | BrokenStreamError) -> str:
    """Return why there is no whole answer."""
    if isinstance(error, BrokenStreamError):
        return error.detail
    return f"tls: {error}" if error.kind == "tls" else error.kind


class _StatusError(UpstreamError):
    """The list of models was answered with a status that says why there is none."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"HTTP {reply.status}", "protocol")
        self.reply = reply
