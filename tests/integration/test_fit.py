"""A fallback fits its request, or is none: as the stock SDK asks, while the GPU server is away."""

from __future__ import annotations

import json
import time

import httpx
import openai
import pydantic
import pytest
from harness.batches import check_every_line_once, ended, line, start
from harness.upstream import completion
from harness.waiting import wait_until

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
GOOD, PROSE = '{"city": "Ulm"}', "Ulm is a fine city."


class Place(pydantic.BaseModel):
    """What the SDK is to parse."""

    model_config = pydantic.ConfigDict(extra="forbid")
    city: str


def called(name):
    function = {"name": name, "arguments": "{}"}
    return completion(
        None, "tool_calls", tool_calls=[{"id": "1", "type": "function", "function": function}]
    )


@pytest.fixture(scope="module")
def stack(module_fleet):
    fleet = module_fleet
    # The GPU server is probed every second, as long as it is away.
    return fleet.start(fleet.api(), fleet.worker(breaker_recovery_seconds=1))


@pytest.fixture
def cpu(module_cpu, module_gpu):
    """The CPU server, which answers what a test says, while the GPU server is away."""
    module_gpu.vanish()

    def says(answer):
        async def reply(call, writer):
            body = json.dumps(answer).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            return True

        module_cpu.__dict__["_answer"] = reply

    yield says
    module_cpu.__dict__.pop("_answer", None)
    module_gpu.vanish()
    module_gpu.listen()


@pytest.fixture
def sdk(stack):
    with openai.OpenAI(base_url=f"{stack[0].url}/v1", api_key="any", max_retries=0) as client:
        yield client


def ask(sdk, **fields):
    messages = [{"role": "user", "content": f"Where is it? {time.monotonic()}"}]
    return sdk.chat.completions.with_raw_response.create(model="m", messages=messages, **fields)


@pytest.mark.parametrize(
    ("need", "answer", "tier"),
    [
        ({}, completion(PROSE), "cpu"),
        ({"response_format": FORM}, completion(GOOD), "cpu"),
        ({"response_format": FORM}, completion(f"```json\n{GOOD}\n```"), "cpu"),
        ({"response_format": FORM}, completion(PROSE), None),
        ({"response_format": FORM}, completion('{"town": "Ulm"}'), None),
        ({"response_format": FORM}, completion('{"city": "Ul', "length"), None),
        ({"response_format": {"type": "json_object"}}, completion("{}"), "cpu"),
        ({"response_format": {"type": "json_object"}}, completion(PROSE), None),
        ({"tools": [TOOL]}, completion(PROSE), "cpu"),
        ({"tools": [TOOL]}, called("look"), "cpu"),
        ({"tools": [TOOL]}, called("erase"), "degraded"),  # it need not be a call
        ({"tools": [TOOL], "tool_choice": "required"}, called("look"), "cpu"),
        ({"tools": [TOOL], "tool_choice": "required"}, completion(PROSE), None),
    ],
)
def test_what_the_cpu_tier_says_is_shown_only_if_it_fits(cpu, sdk, need, answer, tier):
    cpu(answer)
    if tier:
        assert ask(sdk, **need).headers["x-fallthrough-tier"] == tier
        return
    with pytest.raises(openai.InternalServerError) as raised:
        ask(sdk, **need)
    assert (raised.value.status_code, raised.value.code) == (503, "tiers_exhausted")
    assert "cpu unfit" in str(raised.value)


def test_the_sdk_parses_what_it_gets(cpu, sdk):
    cpu(completion(GOOD))
    messages = [{"role": "user", "content": "parse"}]
    parse = sdk.chat.completions.parse
    made = parse(model="m", messages=messages, response_format=Place)
    assert made.choices[0].message.parsed == Place(city="Ulm")
    cpu(completion(PROSE))
    messages[0]["content"] = "parse something else"
    with pytest.raises(openai.InternalServerError):
        parse(model="m", messages=messages, response_format=Place)


def test_a_line_that_waits_is_answered_by_a_tier_that_can(cpu, sdk, module_gpu, module_cpu):
    cpu(completion(PROSE))
    before = len(module_cpu.calls)
    made = start(sdk, [line(f"c{n}", f"line {n}", response_format=FORM) for n in range(3)])
    # Each goes down once there is room, and the CPU tier says what it has to say.
    wait_until(lambda: len(module_cpu.calls) == before + 3)
    batch = sdk.batches.retrieve(made.id)
    assert (batch.status, batch.request_counts.completed) == ("in_progress", 0)
    module_gpu.listen()
    output, errors = check_every_line_once(sdk, ended(sdk, made.id), ["c0", "c1", "c2"])
    assert not errors
    assert {each["fallthrough"]["tier_used"] for each in output} == {"gpu"}


def test_the_gpu_tiers_own_answer_passes_marked_and_is_not_kept(stack, sdk, module_gpu):
    def there():
        return ask(sdk).headers["x-fallthrough-tier"] == "gpu"

    wait_until(there, 10, "the GPU tier answers again")
    answer = ask(sdk, response_format=FORM)  # the stub answers in prose
    assert answer.headers["x-fallthrough-tier"] == "gpu"
    assert answer.headers["x-fallthrough-fit"] == "failed"
    with httpx.Client(base_url=stack[0].url) as http:
        job = {"prompt": "once", "response_format": FORM}
        first = http.post("/v1/jobs", json=job).json()
        first = http.get(f"/v1/jobs/{first['id']}?wait=10").json()
        assert (first["tier_used"], first["attempts"][-1]["detail"]) == ("gpu", "misfit json")
        assert first["fit"] == "failed"
        again = http.post("/v1/jobs", json={**job, "cache": "first"}).json()
        assert http.get(f"/v1/jobs/{again['id']}?wait=10").json()["tier_used"] == "gpu"
    assert "x-fallthrough-fit" not in ask(sdk).headers
    lines = [line("form", "line", response_format=FORM), line("free", "line")]
    output, _ = check_every_line_once(sdk, ended(sdk, start(sdk, lines).id), ["form", "free"])
    fits = {each["custom_id"]: each["fallthrough"].get("fit") for each in output}
    assert fits == {"form": "failed", "free": None}
