"""`fallthrough submit` at a terminal, and elsewhere, over a real fleet."""

from __future__ import annotations

import json
import signal

import httpx
import pytest
from harness.commands import run
from harness.terminals import terminal
from harness.waiting import wait_until

WORDS = " ".join(f"w{n}" for n in range(12))
ANSWER = f"gpu-model: {WORDS}"


@pytest.fixture
def api(fleet):
    return fleet.start(fleet.api(), fleet.worker())[0]


def job_of(api):
    return httpx.get(f"{api.url}/v1/jobs?limit=1").json()["data"][0]


def test_an_answer_is_shown_word_by_word_and_once(api, gpu):
    gpu.pace = 0.2
    with terminal("submit", WORDS, "--url", api.url) as shown:
        wait_until(lambda: "w2" in shown.said)
        assert "w11" not in shown.said
        assert job_of(api)["status"] == "running"
        assert shown.process.wait(20) == 0
        assert shown.lines == [ANSWER]


def test_what_is_waited_for_is_told_until_the_first_word(fleet, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker(gpu_timeout_seconds=20))
    gpu.delay = 1.0
    with terminal("submit", "Hello", "--url", api.url) as shown:
        wait_until(lambda: "queued" in shown.said or "at gpu" in shown.said)
        assert shown.process.wait(20) == 0
        assert shown.lines == ["gpu-model: Hello"]


def test_it_goes_on_where_the_connection_broke(fleet, gpu):
    api, worker = fleet.start(fleet.api(), fleet.worker())
    gpu.pace = 0.2
    with terminal("submit", WORDS, "--url", api.url) as shown:
        wait_until(lambda: "w2" in shown.said)
        api.process.kill()
        api.wait()
        assert worker.ready()
        assert shown.process.poll() is None
        api.start()
        assert shown.process.wait(40) == 0
        assert shown.lines == [ANSWER]


def test_interrupted_it_says_how_to_come_back_and_the_job_goes_on(api, gpu):
    gpu.pace = 0.2
    with terminal("submit", WORDS, "--url", api.url) as shown:
        wait_until(lambda: "w2" in shown.said)
        shown.process.send_signal(signal.SIGINT)
        assert shown.process.wait(10) == 130
        told, job_id, how = shown.lines
    assert ANSWER.startswith(told)
    assert job_id == job_of(api)["id"]
    assert "fallthrough status ID" in how
    wait_until(lambda: job_of(api)["status"] == "succeeded")
    assert run("status", job_id, "--url", api.url).stdout.endswith(f"{ANSWER}\n")


def test_interrupted_before_the_first_word_it_gives_the_cursor_back(api, gpu):
    gpu.mode = "hang"
    with terminal("submit", "Hello", "--url", api.url) as shown:
        wait_until(lambda: "\x1b[?25l" in shown.said)
        shown.process.send_signal(signal.SIGINT)
        assert shown.process.wait(10) == 130
        assert shown.said.rfind("\x1b[?25h") > shown.said.rfind("\x1b[?25l")
        assert job_of(api)["id"] in shown.said


def test_what_breaks_off_says_so_behind_what_came(api, gpu):
    gpu.mode = "cut@3"
    with terminal("submit", WORDS, "--url", api.url) as shown:
        assert shown.process.wait(20) == 1
        told, why, summary = shown.lines
    assert told == "gpu-model: w0 w1"
    assert summary.startswith("1 of 1 prompts were not answered")
    assert why.startswith("[failed] the answer broke off")


def test_what_no_tier_answers_is_told_as_before(api, gpu, cpu):
    assert run("submit", "kept", "--url", api.url).stdout == "gpu-model: kept\n"
    gpu.vanish()
    cpu.vanish()
    with terminal("submit", "kept", "--url", api.url) as shown:
        assert shown.process.wait(20) == 0
        assert shown.lines == ["gpu-model: kept"]
    with terminal("submit", "new", "--url", api.url) as shown:
        assert shown.process.wait(20) == 1
        message, note = shown.lines
    assert "temporarily unable" in message
    assert note.startswith("1 of 1 prompts were not answered by a model or a cache (1 degraded")
    with terminal("submit", "new", "--on-exhausted", "fail", "--url", api.url) as shown:
        assert shown.process.wait(20) == 1
        assert any(line.startswith("[failed] ") for line in shown.lines)


def test_only_one_answer_at_a_terminal_is_streamed(api, gpu, tmp_path):
    prompts = tmp_path / "p.txt"
    prompts.write_text("one\ntwo\n")
    with terminal("submit", str(prompts), "--wait", "--url", api.url) as shown:
        assert shown.process.wait(20) == 0
    with terminal("submit", "three", "--json", "--url", api.url) as shown:
        assert shown.process.wait(20) == 0
        assert json.loads(shown.lines[-1])["text"] == "gpu-model: three"
    assert run("submit", "four", "--url", api.url).stdout == "gpu-model: four\n"
    assert run("submit", "five", "--json", "--url", api.url).returncode == 0
    assert not any(call.body.get("stream") for call in gpu.calls)
    with terminal("submit", "six", "--url", api.url) as shown:
        assert shown.process.wait(20) == 0
    assert gpu.calls[-1].body["stream"] is True
