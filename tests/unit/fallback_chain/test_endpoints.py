"""A tier of several servers: who is asked, who is next, and when the tier refuses."""

from __future__ import annotations

import asyncio
import json

import pytest
from harness.upstream import completion
from harness.waiting import eventually

from circuit_breaker import CircuitBreaker, CircuitBreakerConfig, MemoryStore
from fallback_chain import (
    Need,
    Needs,
    Reply,
    TierConfig,
    TierOfEndpoints,
    UpstreamError,
    Verdict,
    build_tier,
    split_urls,
)

PLAIN = {"messages": [{"role": "user", "content": "hi"}]}
OBJECT = {**PLAIN, "response_format": {"type": "json_object"}}
URLS = ["http://one", "http://two", "http://three"]


class Stand:
    """A tier, and its servers, each of which is as `modes` says. Its breakers' clock stands still.

    A mode is a status, an UpstreamError to raise, or the text of an answer.
    """

    def __init__(self, number=2, **config) -> None:
        self.now_ms = 1_000_000
        self.modes = dict.fromkeys(["one", "two", "three"][:number], "hi")
        self.models = {name: [f"model-{name}"] for name in self.modes}
        self.asked: list[str] = []
        self.listed: list[str] = []
        self.ids: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        store = MemoryStore(lambda: self.now_ms)
        fields = {"model": "m", "api_key": None, "timeout_seconds": 5.0, **config}
        tier = TierConfig("gpu", ",".join(URLS[:number]), **fields)
        names = [each.breaker_name for each in tier.endpoints]
        self.breakers = {
            name: CircuitBreaker(name, CircuitBreakerConfig(), store) for name in names
        }
        self.tier = build_tier(tier, self.breakers, self)

    async def request(self, method, url, *, headers, content, timeout_seconds):
        name = url.removeprefix("http://").partition("/")[0]
        mode = self.modes[name]
        if method == "GET":
            self.listed.append(name)
            if isinstance(mode, Exception):
                raise mode
            data = ", ".join(f'{{"id": "{model}"}}' for model in self.models[name])
            return Reply(200, {}, f'{{"data": [{data}]}}'.encode())
        self.asked.append(name)
        self.ids.append(headers.get("x-request-id", ""))
        await self.go.wait()
        if isinstance(mode, Exception):
            raise mode
        if isinstance(mode, int):
            return Reply(mode, {}, ERRORS.get(mode, b"{}"))
        return Reply(200, {}, encoded(mode))

    async def aclose(self):
        """There is nothing to close."""

    async def ask(self, body=PLAIN, **options):
        return await self.tier.ask(body, **options)

    async def open(self, name, breaker):
        """Have a server fail until its breaker is open; it stays as it was."""
        mode, self.modes[name] = self.modes[name], 500
        while self.breakers[breaker].state == "closed":
            await self.ask()
        self.modes[name] = mode
        self.asked.clear()


ERRORS = {404: b'{"error": {"message": "model not found"}}', 400: b'{"error": {"message": "no"}}'}
GONE = UpstreamError("refused", "connect")


def encoded(text):
    return json.dumps(completion(text)).encode()


def tried(trial):
    return [(attempt.endpoint, str(attempt.verdict)) for attempt in trial.attempts]


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("http://a", ["http://a"]),
        ("http://a,http://b", ["http://a", "http://b"]),
        (" http://a , https://b/v1\nHTTP://c\t", ["http://a", "https://b/v1", "HTTP://c"]),
        ("http://user:p,ss@a,http://b,", ["http://user:p,ss@a", "http://b"]),
        ("", []),
        (",", []),
    ],
)
def test_urls_are_parted_by_commas_or_blanks(text, urls):
    assert split_urls(text) == urls


def test_each_server_has_a_breaker_of_its_own():
    assert list(Stand(3).breakers) == ["max_gpu", "max_gpu:2", "max_gpu:3"]
    assert isinstance(Stand(2).tier, TierOfEndpoints)
    assert not isinstance(Stand(1).tier, TierOfEndpoints)


async def test_calls_go_to_who_has_the_fewest():
    stand = Stand(3)
    stand.go.clear()
    calls = [asyncio.create_task(stand.ask()) for _ in range(7)]
    await eventually(lambda: len(stand.asked) == 7)
    assert sorted(stand.asked.count(name) for name in stand.modes) == [2, 2, 3]
    stand.go.set()
    assert {(await call).attempt.verdict for call in calls} == {Verdict.ANSWERED}


async def test_calls_one_after_the_other_take_turns():
    stand = Stand(2)
    trials = [await stand.ask() for _ in range(4)]
    assert stand.asked == ["one", "two"] * 2
    assert [tried(trial) for trial in trials] == [[(1, "answered")], [(2, "answered")]] * 2


@pytest.mark.parametrize(
    ("mode", "verdict"),
    [
        (GONE, "failure"),
        (500, "failure"),
        (429, "saturated"),
        (401, "misconfigured"),
        (404, "unfit"),
    ],
)
async def test_what_one_could_not_answer_another_does(mode, verdict):
    stand = Stand(2)
    stand.modes["one"] = mode
    trial = await stand.ask(request_id="r")
    assert tried(trial) == [(1, verdict), (2, "answered")]
    assert trial.answer is not None
    first, *_, last = stand.ids
    assert (first, last) == ("r", "r-2"), "each call is told an id of its own"


async def test_the_requests_own_fault_is_asked_of_one():
    stand = Stand(2)
    stand.modes["one"] = stand.modes["two"] = 400
    trial = await stand.ask()
    assert (tried(trial), len(stand.asked)) == ([(1, "refused")], 1)


async def test_a_deadline_that_is_over_is_the_end():
    stand = Stand(2)
    stand.modes["one"] = UpstreamError("timed out", "timeout")
    trial = await stand.ask(timeout_seconds=1.0)
    assert (tried(trial), stand.asked) == ([(1, "expired")], ["one"])


async def test_when_none_answers_the_tier_tells_every_try():
    stand = Stand(3)
    stand.modes = {"one": GONE, "two": 429, "three": 500}
    trial = await stand.ask()
    assert tried(trial) == [(1, "failure"), (2, "saturated"), (3, "failure")]
    assert trial.answer is None


async def test_one_bad_server_never_opens_the_tier():
    stand = Stand(2)
    await stand.open("one", "max_gpu")
    assert (stand.tier.refusal(), stand.tier.reject(), stand.tier.closed) == (None, None, True)
    assert stand.tier.well
    assert await stand.tier.due_seconds() == 0
    assert [tried(await stand.ask()) for _ in range(3)] == [[(2, "answered")]] * 3
    assert stand.asked == ["two"] * 3


async def test_when_all_refuse_the_tier_refuses_for_the_shortest_time():
    stand = Stand(2)
    await stand.open("one", "max_gpu")
    stand.now_ms += 10_000
    await stand.open("two", "max_gpu:2")
    assert not stand.tier.closed
    assert not stand.tier.well
    assert stand.tier.refusal().retry_after_seconds == pytest.approx(20, abs=1)
    assert stand.tier.reject().reason == "open"
    assert await stand.tier.due_seconds() == pytest.approx(20, abs=1)
    assert tried(await stand.ask()) == [(0, "rejected")]
    assert stand.asked == []


@pytest.mark.parametrize(("back", "first"), [(True, "one"), (False, "two")])
async def test_one_that_is_due_costs_nobody_anything_until_it_is_there(back, first):
    stand = Stand(2)
    await stand.open("one", "max_gpu")
    stand.modes["one"] = "hi" if back else GONE
    stand.now_ms += 30_000
    assert tried(await stand.ask()) == [(2, "answered")], "it is asked for its models beside that"
    await eventually(lambda: stand.listed == ["one"])
    await eventually(lambda: not stand.tier._knocking)
    stand.asked.clear()
    await stand.ask()
    assert stand.asked == [first]
    state = "half_open" if back else "open"
    assert stand.breakers["max_gpu"].state == state


async def test_one_that_is_probed_gets_one_call_at_a_time_until_it_is_closed():
    stand = Stand(2)
    await stand.open("one", "max_gpu")
    stand.now_ms += 30_000
    await stand.ask()
    await eventually(lambda: stand.listed and not stand.tier._knocking)
    stand.asked.clear()
    stand.go.clear()
    calls = [asyncio.create_task(stand.ask()) for _ in range(5)]
    await eventually(lambda: len(stand.asked) == 5)
    assert stand.asked.count("one") == 1
    stand.go.set()
    await asyncio.gather(*calls)
    await stand.ask()
    assert stand.breakers["max_gpu"].state == "closed"


async def test_a_server_alone_is_probed_by_whoever_asks():
    stand = Stand(2)
    await stand.open("one", "max_gpu")
    await stand.open("two", "max_gpu:2")
    stand.now_ms += 30_000
    assert (await stand.ask()).attempt.verdict is Verdict.ANSWERED


# What does not fit


async def test_what_fits_no_server_does_not_fit_the_tier():
    stand = Stand(2)
    stand.modes = {"one": 404, "two": 404}
    assert tried(await stand.ask()) == [(1, "unfit"), (0, "unfit")]


@pytest.mark.parametrize("other", [500, 429, GONE])
@pytest.mark.parametrize("order", [["one", "two"], ["two", "one"]])
async def test_what_does_not_fit_one_may_fit_another_at_another_time(order, other):
    stand = Stand(2)
    stand.modes = dict(zip(order, [404, other], strict=True))
    last = (await stand.ask()).attempt
    assert last.verdict is not Verdict.UNFIT, "the tier may be asked again"


async def test_what_does_not_fit_one_waits_for_another_that_refuses():
    stand = Stand(2)
    await stand.open("two", "max_gpu:2")
    stand.modes["one"] = 404
    assert tried(await stand.ask()) == [(1, "unfit"), (0, "rejected")]


async def test_an_answer_in_no_form_is_not_asked_of_the_next():
    stand = Stand(2, checked=True)
    trial = await stand.ask(OBJECT)
    assert (tried(trial), trial.attempt.detail) == ([(0, "unfit")], "misfit json")
    assert len(stand.asked) == 1


async def test_what_the_tier_lacks_is_asked_of_none():
    stand = Stand(2, accepts=frozenset({Need.TOOLS}))
    assert stand.tier.misfit(Needs.of(OBJECT)).attempt.detail == "lacks json"
    assert tried(await stand.ask(OBJECT)) == [(0, "unfit")]
    assert stand.asked == []


# Models


async def test_the_models_are_those_of_all_that_tell():
    stand = Stand(3)
    stand.models["three"] = ["model-one", "other"]
    assert await stand.tier.models() == ["model-one", "model-two", "other"]
    stand.modes["two"] = GONE
    assert await stand.tier.models() == ["model-one", "other"]
    stand.modes = dict.fromkeys(stand.modes, GONE)
    with pytest.raises(UpstreamError):
        await stand.tier.models()


async def test_who_names_a_model_is_sent_to_who_has_it():
    stand = Stand(2, model=None)
    for _ in range(2):
        await stand.ask()  # each has found its own
    stand.asked.clear()
    for _ in range(3):
        await stand.ask({**PLAIN, "model": "model-two"})
    assert stand.asked == ["two"] * 3
