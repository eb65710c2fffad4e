"""Servers that are well, and odd: none of it is taken for a failure, or for the caller's fault."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager

import msgspec
import pytest
from harness.upstream import completion

from circuit_breaker import CircuitBreaker, CircuitBreakerConfig, CircuitState, MemoryStore
from fallback_chain import ChatTier, Endpoint, Reply, TierConfig, UpstreamError, Verdict
from fallback_chain import tier as tiers
from fallback_chain.http import StreamedReply

PLAIN = {"messages": [{"role": "user", "content": "hi"}]}
FORBIDDEN = Reply(403, {}, b"{}")
BROKEN_LISTS = {
    "forbidden": FORBIDDEN,
    "moved": Reply(301, {}, b""),
    "broken": Reply(500, {}, b""),
    "reset": UpstreamError("cut off", "reset"),
    "too large": UpstreamError("too large", "too large"),
}


class Server:
    """An HTTP client whose replies are given: a reply, an error, or what makes one of a body."""

    def __init__(self, chat=None, models=()):
        self.chat = chat or (lambda _: Reply(200, {}, json.dumps(completion("hi")).encode()))
        self.models, self.listed, self.asked = models, 0, []

    async def request(self, method, url, *, headers, content, timeout_seconds):
        if method == "GET":
            self.listed += 1
            found = self.models
            if found is None:
                await asyncio.sleep(timeout_seconds)
                raise UpstreamError("timed out", "timeout")
            if not isinstance(found, Reply | Exception):
                listed = {"data": [{"id": name} for name in found]}
                found = Reply(200, {}, json.dumps(listed).encode())
        else:
            self.asked.append(msgspec.json.decode(content))
            found = self.chat(self.asked[-1]) if callable(self.chat) else self.chat
        if isinstance(found, Exception):
            raise found
        return found

    kind, status = "Text/Event-Stream", 200  # what it calls a stream

    @asynccontextmanager
    async def stream(self, method, url, *, headers, content, timeout_seconds):
        yield StreamedReply(self.status, {"content-type": self.kind}, self.chat())


def asking(server, **config):
    """A tier that asks a server, and its breaker."""
    limits = {"model": "m", "timeout_seconds": 2.0, **config}
    known = TierConfig(name="gpu", url="http://gpu", api_key=None, **limits)
    breaker = CircuitBreaker("max_gpu", CircuitBreakerConfig(), MemoryStore())
    return ChatTier(known, breaker, server), breaker


@pytest.mark.parametrize("how", BROKEN_LISTS)
async def test_a_tier_with_a_model_of_its_own_is_asked_though_its_list_cannot_be_had(how):
    server = Server(models=BROKEN_LISTS[how])
    tier, breaker = asking(server)
    for name in ("another", "m", "another", "another"):
        trial = await tier.ask({**PLAIN, "model": name})
        assert trial.attempt.verdict is Verdict.ANSWERED
    assert [body["model"] for body in server.asked] == ["m"] * 4
    assert (server.listed, breaker.state) == (1, CircuitState.CLOSED)


async def test_nor_does_it_wait_long_for_the_list(monkeypatch):
    monkeypatch.setattr(tiers, "LIST_SECONDS", 0.05)
    tier, _ = asking(Server(models=None))
    trial = await tier.ask({**PLAIN, "model": "another"})
    assert trial.attempt.verdict is Verdict.ANSWERED
    assert trial.attempt.milliseconds < 1000


async def test_a_tier_without_one_needs_the_list():
    tier, _ = asking(Server(models=FORBIDDEN), model=None)
    trial = await tier.ask({**PLAIN, "model": "another"})
    assert trial.attempt.verdict is Verdict.MISCONFIGURED


@pytest.mark.parametrize("wanted", ["llama3.2", "llama3.2:latest"])
async def test_ollamas_tag_may_be_left_out(wanted):
    server = Server(models=["mistral:latest", "llama3.2:latest"])
    tier, _ = asking(server, model=None)
    await tier.ask({**PLAIN, "model": wanted})
    assert server.asked[-1]["model"] == "llama3.2:latest"
    assert tier.serves(wanted)
    assert not tier.serves("llama3")


@pytest.mark.parametrize(
    "said", [(400, {"error": "model is required"}), (422, {"detail": "body.model: Field required"})]
)
async def test_a_server_without_a_model_is_not_its_callers_fault(said, monkeypatch):
    monkeypatch.setattr(tiers, "NO_MODELS_SECONDS", 0.0)
    status, error = said
    refusal = Reply(status, {}, json.dumps(error).encode())
    server = Server(lambda _: refusal)
    tier, breaker = asking(server, model=None)
    trial = await tier.ask(PLAIN)
    told = (trial.attempt.verdict, trial.attempt.detail)
    assert told == (Verdict.UNFIT, f"HTTP {status} no such model")
    assert breaker.state is CircuitState.CLOSED
    server.chat, server.models = Server().chat, ["new"]
    assert (await tier.ask(PLAIN)).attempt.verdict is Verdict.ANSWERED
    assert server.asked[-1]["model"] == "new"


async def test_who_names_a_model_and_forgets_something_else_is_told_so():
    refusal = Reply(400, {}, b'{"error": {"message": "temperature: too high for this model"}}')
    tier, _ = asking(Server(lambda _: refusal), model=None)
    trial = await tier.ask({**PLAIN, "model": "mine"})
    assert trial.attempt.verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    ("left", "verdict", "opens"),
    [
        (0.05, Verdict.EXPIRED, False),
        (0.1, Verdict.EXPIRED, False),
        (0.18, Verdict.EXPIRED, True),
        (0.199, Verdict.EXPIRED, True),
        (0.2, Verdict.FAILURE, True),
        (1.0, Verdict.FAILURE, True),
        (None, Verdict.FAILURE, True),
    ],
)
async def test_a_server_that_hangs_is_found_out_by_jobs_of_about_its_own_time(left, verdict, opens):
    async def hang(_self, method, url, *, headers, content, timeout_seconds):
        await asyncio.sleep(timeout_seconds)
        raise UpstreamError("timed out", "timeout")

    server = Server()
    server.request = hang.__get__(server)
    tier, breaker = asking(server, timeout_seconds=0.2)
    for _ in range(3):
        trial = await tier.ask({**PLAIN, "model": "m"}, left)
        assert trial.attempt.verdict is verdict
    assert (breaker.state is CircuitState.OPEN) == opens


class Sink:
    until, committed = float("inf"), False

    def write(self, tier, head, choices):
        self.committed = True


def chunk(**choice):
    told = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**told, "choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


WORD, LAST = chunk(delta={"content": "hi"}), chunk(delta={}, finish_reason="stop")
RESET = UpstreamError("cut off", "reset")


async def pieces(*sent):
    for piece in sent:
        if isinstance(piece, Exception):
            raise piece
        if piece is None:
            await asyncio.sleep(30)
        else:
            yield piece


@pytest.mark.parametrize(
    ("sent", "verdict"),
    [
        ((WORD, LAST, b"data: [DONE]\n\n"), Verdict.ANSWERED),
        ((WORD, LAST), Verdict.ANSWERED),
        ((WORD, LAST, RESET), Verdict.ANSWERED),
        ((WORD, LAST, None), Verdict.ANSWERED),
        ((WORD, RESET), Verdict.FAILURE),
        ((WORD,), Verdict.FAILURE),
        ((WORD, None), Verdict.FAILURE),
    ],
)
async def test_a_stream_is_whole_with_its_last_word_however_its_connection_ends(
    sent, verdict, monkeypatch
):
    monkeypatch.setattr("fallback_chain.streaming.LAST_SECONDS", 0.05)
    tier, _ = asking(Server(lambda: pieces(*sent)), next_token_seconds=0.3)
    trial = await tier.ask({**PLAIN, "model": "m"}, endpoint=Endpoint.CHAT, sink=Sink())
    assert trial.attempt.verdict is verdict
    assert (trial.answer is not None) == (verdict is Verdict.ANSWERED)


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", RESET])
async def test_a_reason_to_finish_with_every_word_proves_nothing(end, monkeypatch):
    """Gateways to Gemini were seen to send it so."""
    monkeypatch.setattr("fallback_chain.streaming.LAST_SECONDS", 0.05)
    word = chunk(delta={"content": "hi"}, finish_reason="stop")
    sink, shown = Sink(), []

    async def slowly():
        for _ in range(3):
            yield word
            await asyncio.sleep(0.2)
            shown.append(sink.committed)
        if isinstance(end, Exception):
            raise end
        yield end

    tier, _ = asking(Server(slowly))
    trial = await tier.ask({**PLAIN, "model": "m"}, sink=sink)
    assert shown == [False, True, True]
    if end is RESET:
        assert trial.attempt.verdict is Verdict.FAILURE
    else:
        assert json.loads(trial.answer)["choices"][0]["message"]["content"] == "hihihi"
        assert len(trial.rest.choices) == 1


async def test_its_usage_may_come_a_little_later():
    async def late():
        yield WORD
        yield LAST
        await asyncio.sleep(0.3)
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        yield b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
        raise RESET

    tier, _ = asking(Server(late))
    trial = await tier.ask({**PLAIN, "model": "m"}, sink=Sink())
    assert (trial.attempt.verdict, trial.tokens.prompt) == (Verdict.ANSWERED, 3)


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "", "text/event-stream"])
@pytest.mark.parametrize(
    "sent",
    [
        (WORD, LAST),
        (b": ping\n\n", WORD, LAST),
        (b"data:\n\n", WORD, b"data: \n\n", LAST),
        (b"\r\nid: 1\r\n", WORD, LAST),
        (MARK + b"event: x\n" + WORD, LAST),
        tuple(bytes([each]) for each in MARK + WORD + LAST),
    ],
)
async def test_a_stream_is_one_whatever_it_is_called(kind, sent):
    server = Server(lambda: pieces(*sent))
    server.kind = kind
    tier, breaker = asking(server)
    sink = Sink()
    trial = await tier.ask({**PLAIN, "model": "m"}, sink=sink)
    assert (trial.attempt.verdict, sink.committed) == (Verdict.ANSWERED, True)
    assert json.loads(trial.answer)["choices"][0]["message"]["content"] == "hi"
    assert breaker.state is CircuitState.CLOSED


WHOLE = json.dumps(completion("hi"), indent=1).encode()


@pytest.mark.parametrize("mark", [b"", MARK, b"\n ", MARK + b"\n"])
@pytest.mark.parametrize("size", [1, 5, 10_000])
async def test_nor_is_a_whole_answer_a_stream(mark, size):
    content = mark + WHOLE
    sent = [content[at : at + size] for at in range(0, len(content), size)]
    server = Server(lambda: pieces(*sent))
    server.kind = "application/json"
    tier, _ = asking(server)
    trial = await tier.ask({**PLAIN, "model": "m"}, sink=Sink())
    assert json.loads(trial.answer) == completion("hi")


async def test_a_mark_before_an_answer_is_no_part_of_it():
    listed = Reply(200, {}, MARK + b'{"data": [{"id": "m"}, {"id": "other"}]}')
    tier, _ = asking(Server(lambda _: Reply(200, {}, MARK + WHOLE), listed))
    trial = await tier.ask({**PLAIN, "model": "other"})
    assert trial.attempt.verdict is Verdict.ANSWERED
    assert json.loads(trial.answer) == completion("hi")
    assert tier.serves("other")


async def test_a_mark_before_an_error_is_no_part_of_it_either():
    said = {"message": "This model's maximum context length is 8 tokens.", "code": "x"}
    server = Server(lambda: pieces(MARK + json.dumps({"error": said}).encode()))
    server.kind, server.status = "application/json", 400
    trial = await asking(server)[0].ask({**PLAIN, "model": "m"}, sink=Sink())
    assert trial.error["message"] == said["message"]


async def test_blanks_without_end_are_read_once():
    async def blanks():
        for _ in range(20_000):
            yield b" " * 100
        yield WHOLE

    server = Server(blanks)
    server.kind = "application/json"
    began = time.process_time()
    trial = await asking(server)[0].ask({**PLAIN, "model": "m"}, sink=Sink())
    assert trial.attempt.verdict is Verdict.ANSWERED
    assert time.process_time() - began < 1
