"""How a server is told how urgent a call is, and what becomes of one that does not want to know."""

from __future__ import annotations

import logging

import pytest

from circuit_breaker import CircuitBreaker, CircuitBreakerConfig
from fallback_chain import Body, ChatTier, HttptoolsHttp, TierConfig, Urgency, Verdict
from fallback_chain.urgency import NOTHING, told

ORDER = [Urgency.INTERACTIVE, Urgency.HIGH, Urgency.NORMAL, Urgency.LOW]
BODY = b'{"messages": [{"role": "user", "content": "Hi"}], "priority": 9}'


@pytest.mark.parametrize(
    ("server", "name", "values"),
    [
        ("vllm", "priority", [0, 1, 2, 3]),
        ("dynamo", "x-dynamo-request-priority", ["3", "2", "1", "0"]),
        ("smg", "x-smg-priority", ["interactive", "default", "bulk", "bulk"]),
        (
            "llm-d",
            "x-gateway-inference-objective",
            ["interactive", "batch-high", "batch-normal", "batch-low"],
        ),
    ],
)
def test_the_more_urgent_comes_first_in_each_servers_words(server, name, values):
    for urgency, value in zip(ORDER, values, strict=True):
        headers, fields = told(server, urgency)
        assert {**headers, **fields} == {name: value}


@pytest.mark.parametrize("urgency", ORDER)
def test_a_server_is_told_nothing_unless_it_is_set(urgency):
    assert told("off", urgency) == NOTHING


@pytest.mark.parametrize("priority", ["low", "normal", "high"])
def test_every_priority_of_a_batch_is_an_urgency(priority):
    assert Urgency.of_batch(priority) is not Urgency.INTERACTIVE


@pytest.fixture
async def tier_of(gpu):
    https = []

    def tier_of(priority):
        https.append(HttptoolsHttp(connect_timeout_seconds=2))
        config = TierConfig("gpu", gpu.url, "m", None, 5.0, priority=priority)
        return ChatTier(config, CircuitBreaker("gpu", CircuitBreakerConfig()), https[-1])

    yield tier_of
    for each in https:
        await each.aclose()


async def test_it_goes_with_the_call_in_the_body_or_a_header(gpu, tier_of):
    low = Body(BODY, Urgency.LOW)
    for priority in ("vllm", "smg", "off"):
        assert (await tier_of(priority).ask(low)).attempt.verdict is Verdict.ANSWERED
    in_body, header, nothing = gpu.calls
    assert in_body.body["priority"] == 3, "ours, whatever the caller has said"
    assert (header.headers["x-smg-priority"], header.body["priority"]) == ("bulk", 9)
    assert "x-smg-priority" not in nothing.headers


async def test_a_server_that_refuses_it_is_asked_again_without_and_told_no_more(
    gpu, tier_of, caplog
):
    gpu.plan = lambda call: "no-priority" if call.body.get("priority") != 9 else "ok"
    tier = tier_of("vllm")
    for _ in range(3):
        assert (await tier.ask(Body(BODY, Urgency.NORMAL))).attempt.verdict is Verdict.ANSWERED
    assert [call.body["priority"] for call in gpu.calls] == [2, 9, 9, 9]
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said == ["tier gpu takes no priority as vllm does: it is told no more"]


async def test_a_request_that_is_at_fault_itself_takes_it_from_nobody(gpu, tier_of, caplog):
    gpu.mode = "no-priority"  # whatever is said: the caller's own field is what it dislikes
    tier = tier_of("vllm")
    assert (await tier.ask(Body(BODY))).attempt.verdict is Verdict.UNFIT
    gpu.mode = "ok"
    await tier.ask(Body(BODY))
    assert gpu.calls[-1].body["priority"] == 0
    assert not caplog.records
