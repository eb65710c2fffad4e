"""Lines of a batch whose tiers are away, slow, or no help."""

from __future__ import annotations

import msgspec
import openai
import pytest
from harness.batches import check_every_line_once, ended, line, start
from harness.records import slice_unit
from harness.stores import store_on
from harness.waiting import wait_until

from fallback_chain import Tokens
from tasks.records.batches import LineResult


@pytest.fixture
def stack(fleet):
    return fleet.start(fleet.api(), fleet.worker(slice_lines=16))


@pytest.fixture
def worker(stack):
    return stack[1]


@pytest.fixture
def sdk(stack):
    with openai.OpenAI(base_url=f"{stack[0].url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_an_expired_batch_keeps_what_is_finished(sdk, gpu, cpu):
    cpu.mode = "hang"
    gpu.plan = lambda call: "ok" if int(call.prompt) < 20 else "hang"
    lines = [line(f"c{n}", str(n)) for n in range(100)]
    done = ended(sdk, start(sdk, lines, completion_window="2s").id)
    assert done.status == "expired"
    output, errors = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert len(output) >= 20
    assert {each["error"]["code"] for each in errors} <= {"batch_expired"}


def test_lines_wait_while_no_tier_can_serve(sdk, worker, gpu, cpu):
    gpu.vanish()
    cpu.vanish()
    batch = start(sdk, [line(f"c{n}", str(n)) for n in range(40)])
    wait_until(lambda: "paused: no tier can serve" in worker.log)
    found = sdk.batches.retrieve(batch.id)
    assert (found.status, found.request_counts.failed) == ("in_progress", 0)
    gpu.listen()
    done = ended(sdk, batch.id)
    assert (done.status, done.request_counts.completed) == ("completed", 40)


def test_a_batch_may_choose_degraded_answers(sdk, gpu, cpu):
    gpu.vanish()
    cpu.vanish()
    metadata = {"fallthrough_on_exhausted": "degraded"}
    done = ended(sdk, start(sdk, [line("a", "x")], metadata=metadata).id)
    output, _ = check_every_line_once(sdk, done, ["a"])
    assert output[0]["fallthrough"]["tier_used"] == "degraded"


def test_a_batch_may_fail_what_no_tier_can_answer(sdk, gpu, cpu):
    gpu.vanish()
    cpu.vanish()
    metadata = {"fallthrough_on_exhausted": "fail"}
    done = ended(sdk, start(sdk, [line("a", "x")], metadata=metadata).id)
    assert (done.status, done.output_file_id) == ("completed", None)
    _, errors = check_every_line_once(sdk, done, ["a"])
    assert errors[0]["response"]["status_code"] == 503


def test_what_the_gpu_cannot_answer_the_cpu_does(sdk, gpu, cpu):
    gpu.plan = lambda call: "no-choices" if int(call.prompt) % 10 == 3 else "ok"
    lines = [line(f"c{n}", str(n)) for n in range(100)]
    done = ended(sdk, start(sdk, lines).id)
    output, _ = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    assert {each["fallthrough"]["tier_used"] for each in output} == {"gpu", "cpu"}


def test_lines_that_left_early_and_end_last_are_joined_with_their_mates(sdk, gpu, cpu):
    gpu.plan = lambda call: "no-choices" if int(call.prompt) % 10 == 3 else "ok"
    cpu.delay = 0.8
    real = gpu._answer

    async def slow_if_good(call, writer):
        gpu.delay = 0.0 if int(call.prompt) % 10 == 3 else 0.4
        return await real(call, writer)

    gpu._answer = slow_if_good
    lines = [line(f"c{n}", str(n)) for n in range(64)]
    done = ended(sdk, start(sdk, lines).id)
    output, _ = check_every_line_once(sdk, done, [each["custom_id"] for each in lines])
    tiers = [each["fallthrough"]["tier_used"] for each in output]
    assert tiers.count("cpu") >= 3


async def test_a_slice_whose_last_line_came_from_elsewhere_is_joined(sdk, gpu, valkey):
    gpu.mode = "hang"
    batch = start(sdk, [line("a", "x")])
    wait_until(lambda: gpu.calls)
    store = store_on(valkey.url)
    unit = slice_unit(id="unit_other", lease_owner="other", batch=batch.id)
    said = LineResult(0, good=True, content=b'{"custom_id":"a"}', counted_as="gpu:succeeded")
    said = msgspec.structs.replace(said, tokens=Tokens(10**30))
    await store.batches.record_lines(unit, [said])
    await store.close()
    done = ended(sdk, batch.id)
    assert (done.status, done.request_counts.completed) == ("completed", 1)


def test_an_answer_that_is_no_text_falls_through(sdk, gpu):
    gpu._completion = lambda call: b'{"choices":[{"message":{"content":"x"}}],"note":"\xff"}'
    done = ended(sdk, start(sdk, [line("a", "x")]).id)
    output, _ = check_every_line_once(sdk, done, ["a"])
    assert output[0]["fallthrough"]["tier_used"] == "cpu"
