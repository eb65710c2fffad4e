"""A model server as a tier: its breaker asked first, its limits kept, its reply judged."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from circuit_breaker import CircuitBreaker, Permit, Refusal
from fallback_chain.classify import Meaning, classify
from fallback_chain.errors import UpstreamError
from fallback_chain.fit import NO_JSON, check, without_fence
from fallback_chain.http import Reply
from fallback_chain.needs import Needs, lacks
from fallback_chain.trial import (
    LACKS,
    MISFIT,
    UNCHECKED,
    Attempt,
    Trial,
    Verdict,
    outcome_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from fallback_chain.http import Http
    from fallback_chain.needs import Need

CHAT = "/v1/chat/completions"
REQUEST_ID = "x-request-id"
MODELS_SECONDS = 300.0  # how long a server's list of models is believed
DROPPED = frozenset({"stream", "stream_options"})  # the pipeline wants whole answers
BREAKER_NAMES = {"gpu": "max_gpu", "cpu": "ollama_cpu", "cache": "redis_cache"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TierConfig:
    """A server that speaks OpenAI's API. url: with or without /v1. model: None = found.

    strict_finish: a choice without a reason to finish was interrupted; some servers leave it out.
    accepts: what a request may need of it; None: anything. checked: an answer that does not fit its
    request is none; otherwise it is only marked.
    """

    name: str
    url: str
    model: str | None
    api_key: str | None = field(repr=False)
    timeout_seconds: float
    strict_finish: bool = True
    accepts: frozenset[Need] | None = None
    checked: bool = False

    @property
    def breaker_name(self) -> str:
        """The name of the breaker in front of it."""
        return BREAKER_NAMES[self.name]


def normalise_url(url: str) -> str:
    """Return the base that ends in /v1, however it was given."""
    base = url.rstrip("/")
    for ending in ("/chat/completions", "/v1"):
        base = base.removesuffix(ending).rstrip("/")
    return f"{base}/v1"


class _Asked(NamedTuple):
    body: Mapping[str, Any]
    endpoint: str
    headers: Mapping[str, str]


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
        self._models: list[str] | None = None
        self._models_until = 0.0
        self._finding: asyncio.Task[list[str]] | None = None

    async def ask(
        self,
        body: Mapping[str, Any],
        timeout_seconds: float | None = None,
        endpoint: str = CHAT,
        request_id: str = "",
    ) -> Trial:
        """Try to get an answer.

        timeout_seconds: what is left of the caller's own deadline. request_id: what the server is
        told as x-request-id; it must be this call's alone, as some servers go by it.
        """
        began = time.monotonic()
        needs = Needs.of(body)
        if lacking := self._lacking(needs):
            return self._trial(began, lacking)
        permit = await self.breaker.acquire()
        if isinstance(permit, Refusal):
            return self._trial(began, Meaning(Verdict.REJECTED, permit.reason))
        meaning, reply = Meaning(Verdict.CANCELLED), None
        try:
            headers = {**self._headers, REQUEST_ID: request_id} if request_id else self._headers
            asked = _Asked(body, endpoint, headers)
            meaning, reply = await self._limited(asked, timeout_seconds)
        finally:
            await self._record(permit, meaning)
        if meaning.answer is not None and (needs.checkable or meaning.answer.calls_a_tool):
            meaning, reply = self._fitted(meaning, reply, needs)
        return self._trial(began, meaning, reply)

    def misfit(self, body: Mapping[str, Any]) -> Trial | None:
        """Return the try of a request that this tier is known not to take; None: it may."""
        lacking = self._lacking(Needs.of(body))
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
        return _listed(reply.content)

    async def _record(self, permit: Permit, meaning: Meaning) -> None:
        outcome = outcome_of(meaning.verdict)
        recording: Awaitable[object] = self.breaker.record(
            permit, outcome, meaning.retry_after_seconds
        )
        answered = meaning.verdict is Verdict.ANSWERED
        if permit.probe or not answered:  # of other successes one more or less says nothing
            recording = asyncio.shield(recording)
        try:
            await recording
        except asyncio.CancelledError:
            if not answered:  # else it is kept: nobody has to be asked for it again
                raise

    async def _limited(self, asked: _Asked, left: float | None) -> tuple[Meaning, Reply | None]:
        own = self.config.timeout_seconds
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
        except UpstreamError as error:
            if error.kind != "timeout":
                return Meaning(Verdict.FAILURE, error.kind), None
        except Exception as error:  # noqa: BLE001 - whatever it is, the next tier may answer
            # Without its words: they may hold a key.
            kind = type(error).__name__
            log.error("a try at tier %s broke off: %s", self.config.name, kind)  # noqa: TRY400
            return Meaning(Verdict.FAILURE, kind), None
        if left is not None and left < own:
            return Meaning(Verdict.EXPIRED, "deadline"), None
        return Meaning(Verdict.FAILURE, "timeout"), None

    async def _converse(self, asked: _Asked, until: float) -> tuple[Meaning, Reply | None]:
        model = await self._model_for(asked.body, until)
        meaning, reply = await self._post(asked, model, until)
        if meaning.no_such_model:
            self._models = None  # the server was given other models since we looked
            other = await self._model_for(asked.body, until)
            if other != model:
                return await self._post(asked, other, until)
        return meaning, reply

    async def _post(self, asked: _Asked, model: str | None, until: float) -> tuple[Meaning, Reply]:
        sent = {name: value for name, value in asked.body.items() if name not in DROPPED}
        if model is not None:
            sent["model"] = model
        reply = await self._http.request(
            "POST",
            self._base + asked.endpoint.removeprefix("/v1"),
            headers=asked.headers,
            content=msgspec.json.encode(sent),
            timeout_seconds=until - time.monotonic(),
        )
        return classify(reply, time.time(), strict=self.config.strict_finish), reply

    async def _model_for(self, body: Mapping[str, Any], until: float) -> str | None:
        """Return the model that the request names if it is served here, else the tier's own."""
        wanted = body.get("model")
        if self.config.model and wanted in {None, "", self.config.model}:
            return self.config.model
        served = await self._served(until)
        if wanted in served:
            return str(wanted)
        if self.config.model:
            return self.config.model
        return served[0] if served else (str(wanted) if wanted else None)

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
        self._models = await self.models()
        self._models_until = time.monotonic() + MODELS_SECONDS
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


def _listed(content: bytes) -> list[str]:
    try:
        listed: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return []
    entries = listed.get("data") if isinstance(listed, dict) else listed
    ids = (
        [entry.get("id") for entry in entries or () if isinstance(entry, dict)]
        if isinstance(entries, list)
        else []
    )
    return [name for name in ids if isinstance(name, str) and name]


class _StatusError(UpstreamError):
    """The list of models was answered with a status that says why there is none."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"HTTP {reply.status}", "protocol")
        self.reply = reply
