"""Jobs that the command line submits and waits for; the API is a double."""

from __future__ import annotations

import itertools
import json
import signal
import threading
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
from click.testing import CliRunner
from harness.waiting import wait_until
from rich.console import Console

from cli import jobs as waiting
from cli import patience
from cli.client import (
    ApiAwayError,
    ApiBusyError,
    ApiCutOffError,
    ApiFailedError,
    ApiRefusedError,
    ApiTooLargeError,
    Client,
)
from cli.jobs import CHUNK, milliseconds, submit_prompts, wait_for
from cli.main import main
from cli.prompts import Prompt


class ApiDouble:
    """Keeps what is submitted; each job is running at the first poll, and finished at the next."""

    def __init__(self):
        self.chunks = []
        self.polls = Counter()

    def submit(self, requests, key):
        self.chunks.append(requests)
        return [{"id": request["prompt"]} for request in requests]

    def job(self, job_id, wait):
        self.polls[job_id] += 1
        status = "running" if self.polls[job_id] == 1 else "succeeded"
        return {"id": job_id, "status": status, "tier_used": "gpu"}


def test_many_prompts_are_submitted_in_chunks_and_in_order():
    api = ApiDouble()
    prompts = [Prompt(str(n), {"prompt": f"p {n}"}) for n in range(CHUNK + 1)]
    jobs = []
    submit_prompts(api, prompts, {}, jobs)
    assert [len(chunk) for chunk in api.chunks] == [CHUNK, 1]
    assert [job["id"] for job in jobs] == [prompt.request["prompt"] for prompt in prompts]


def test_jobs_accepted_before_a_refusal_are_told(monkeypatch, tmp_path):
    def submit(client, requests, key):
        if requests[0]["prompt"] != "p 0":
            raise ApiFailedError("too many are queued")
        return [{"id": f"job_{number}"} for number in range(len(requests))]

    monkeypatch.setattr(Client, "submit", submit)
    many = tmp_path / "prompts.txt"
    many.write_text("".join(f"p {number}\n" for number in range(CHUNK + 1)))
    done = CliRunner().invoke(main, ["submit", str(many), "--no-wait"])
    assert done.exit_code != 0
    assert [f"job_{number}" for number in range(CHUNK)] == done.stdout.split()
    assert "too many are queued" in str(done.exception) + done.stderr


@pytest.mark.parametrize("room", [1, 3, 400, CHUNK])
def test_of_prompts_for_which_there_is_no_room_fewer_are_sent_at_once(monkeypatch, room):
    monkeypatch.setattr(patience, "AGAIN_SECONDS", 0.001)
    api, prompts = ApiDouble(), [Prompt(str(n), {"prompt": f"p {n}"}) for n in range(CHUNK + 5)]
    has_room = itertools.cycle([False, True])

    def submit(requests, key):
        if len(requests) > room or (len(requests) == 1 and not next(has_room)):
            raise ApiBusyError("too many are queued")
        return ApiDouble.submit(api, requests, key)

    monkeypatch.setattr(api, "submit", submit)
    jobs = []
    submit_prompts(api, prompts, {}, jobs)
    assert [job["id"] for job in jobs] == [prompt.request["prompt"] for prompt in prompts]


def test_a_single_prompt_without_room_is_told_so_at_once(monkeypatch):
    monkeypatch.setattr(patience, "AGAIN_SECONDS", 60.0)
    api = ApiDouble()
    monkeypatch.setattr(api, "submit", Mock(side_effect=ApiBusyError("too many are queued")))
    with pytest.raises(ApiBusyError):
        submit_prompts(api, [Prompt("1", {"prompt": "a"})], {}, [])


def test_an_api_that_goes_away_between_two_chunks_is_asked_again(monkeypatch):
    monkeypatch.setattr(patience, "AGAIN_SECONDS", 0.001)
    api, prompts = ApiDouble(), [Prompt(str(n), {"prompt": f"p {n}"}) for n in range(CHUNK + 1)]
    troubles = [None, ApiAwayError("away"), ApiCutOffError("cut off"), ApiBusyError("busy"), None]
    keys = []

    def submit(requests, key):
        keys.append(key)
        if trouble := troubles.pop(0):
            raise trouble
        return ApiDouble.submit(api, requests, key)

    monkeypatch.setattr(api, "submit", submit)
    jobs = []
    submit_prompts(api, prompts, {}, jobs)
    assert [job["id"] for job in jobs] == [prompt.request["prompt"] for prompt in prompts]
    assert len(set(keys[1:])) == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("requests[4].temperature: at most 2", "p.txt, line 1005: temperature: at most 2"),
        ("requests[0]: needs a prompt", "p.txt, line 1001: needs a prompt"),
        ("too many are queued", "too many are queued"),
    ],
)
def test_what_the_api_says_of_a_prompt_names_its_place(monkeypatch, said, told):
    api = ApiDouble()
    prompts = [
        Prompt(str(n), {"prompt": f"p {n}"}, f"p.txt, line {n + 1}") for n in range(CHUNK + 5)
    ]

    def submit(requests, key):
        if requests[0]["prompt"] != "p 0":
            raise ApiFailedError(said)
        return ApiDouble.submit(api, requests, key)

    monkeypatch.setattr(api, "submit", submit)
    with pytest.raises(ApiFailedError) as raised:
        submit_prompts(api, prompts, {}, [])
    assert str(raised.value) == told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ApiRefusedError("temperature: at most 2"), "p.txt, line 1001: temperature: at most 2"),
        (ApiTooLargeError("the body is too large"), "p.txt, line 1001: the body is too large"),
        (ApiFailedError("invalid key"), "invalid key"),
    ],
)
def test_what_the_api_says_of_a_prompt_by_itself_names_its_place(monkeypatch, error, told):
    """The last one of 1,001 is sent alone, so the API says no number."""
    api = ApiDouble()
    prompts = [Prompt(str(n), {"prompt": f"p {n}"}, f"p.txt, line {n + 1}") for n in range(1001)]

    def submit(requests, key):
        if len(requests) == 1:
            raise error
        return ApiDouble.submit(api, requests, key)

    monkeypatch.setattr(api, "submit", submit)
    with pytest.raises(type(error)) as raised:
        submit_prompts(api, prompts, {}, [])
    assert str(raised.value) == told


def test_an_api_that_takes_less_at_once_gets_less(monkeypatch):
    api, prompts = ApiDouble(), [Prompt(str(n), {"prompt": "x" * 99}) for n in range(100)]
    stub = httpx.Response(413, json={"error": {"message": "the body is larger than 999 bytes"}})
    client = Client("http://127.0.0.1:1")

    def submit(requests, key):
        return (
            client._answer("/v1/jobs", stub) if len(requests) > 9 else [{"id": "j"}] * len(requests)
        )

    monkeypatch.setattr(api, "submit", submit)
    jobs = []
    submit_prompts(api, prompts, {}, jobs)
    assert len(jobs) == 100


def test_no_letter_of_an_answer_is_lost_to_a_locale_in_json(monkeypatch):
    job = {"id": "job_1", "status": "succeeded", "degraded": False, "text": "日本 \u2028 —"}
    finished = {**job, "tier_used": "gpu"}
    monkeypatch.setattr(Client, "submit", lambda *_: [finished])
    monkeypatch.setattr(Client, "job", lambda *_: finished)
    done = CliRunner(charset="latin-1").invoke(main, ["submit", "hi", "--json"])
    assert json.loads(done.stdout)["text"] == job["text"]


def test_a_list_is_looked_for_until_it_is_full_or_there_is_no_more(monkeypatch):
    """One request searches so many jobs: its page may be empty, and have a next one."""
    job = {"status": "failed", "tier_used": None, "created_at": 0}
    pages = {
        "/v1/jobs?limit=3&status=failed": {"data": [], "next": "j9"},
        "/v1/jobs?limit=3&status=failed&after=j9": {"data": [{"id": "j5", **job}], "next": "j4"},
        "/v1/jobs?limit=2&status=failed&after=j4": {"data": [{"id": "j1", **job}], "next": None},
        "/v1/jobs?limit=1&status=failed": {"data": [{"id": "j5", **job}], "next": "j5"},
    }
    monkeypatch.setattr(Client, "_call", lambda _, __, path: pages[path])
    for limit, found in (("3", ["j5", "j1"]), ("1", ["j5"])):
        done = CliRunner().invoke(main, ["jobs", "list", "--status", "failed", "--limit", limit])
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["job", *found]


def test_a_list_is_as_long_as_is_asked_for_and_says_where_it_goes_on(monkeypatch):
    entry = {
        "status": "failed",
        "tier_used": None,
        "purpose": "batch",
        "bytes": 1,
        "filename": "a",
        "created_at": 0,
        "request_counts": {"completed": 0, "failed": 0, "total": 1},
    }
    asked = []

    def call(_, __, path):
        asked.append(path)
        limit = int(path.partition("limit=")[2].partition("&")[0])
        return {"data": [{"id": f"x{n}", **entry} for n in range(limit)], "next": "x9"}

    monkeypatch.setattr(Client, "_call", call)
    for command, path in (
        (["jobs", "list"], "/v1/jobs"),
        (["files", "list"], "/v1/files"),
        (["batch", "list"], "/v1/batches"),
    ):
        asked.clear()
        done = CliRunner().invoke(main, [*command, "--limit", "250"])
        assert len(done.stdout.splitlines()) == 1 + 250
        assert done.stderr == "these are the latest 250; more: --limit 2500\n"
        rest = [f"{path}?limit={n}&after=x9" for n in (100, 50)]
        assert asked == [f"{path}?limit=100", *rest]
        done = CliRunner().invoke(main, [*command, "--limit", "250", "--json"])
        assert (len(json.loads(done.stdout)), done.stderr) == (250, "")


def test_what_a_prompt_says_goes_before_the_default():
    api = ApiDouble()
    prompts = [Prompt("1", {"prompt": "a", "cache": "off"}), Prompt("2", {"prompt": "b"})]
    submit_prompts(api, prompts, {"cache": "first"}, [])
    assert [request["cache"] for request in api.chunks[0]] == ["off", "first"]


def test_each_job_is_polled_until_it_is_finished_and_told_once():
    api, listened = ApiDouble(), []
    jobs = wait_for(api, ["a", "b"], Console(quiet=True), lambda job: listened.append(job["id"]))
    assert {job["status"] for job in jobs.values()} == {"succeeded"}
    assert sorted(listened) == sorted(jobs) == ["a", "b"]


@pytest.fixture
def twenty(monkeypatch, tmp_path):
    """A file of twenty prompts, in the folder of the command, and an API that accepts them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(patience, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(
        Client, "submit", lambda _, asked, key: [{"id": each["prompt"]} for each in asked]
    )
    path = tmp_path / "twenty.txt"
    path.write_text("".join(f"p{number}\n" for number in range(20)))
    return [f"p{number}" for number in range(20)]


def finished(job_id):
    told = {"text": f"to {job_id}", "tier_used": "gpu", "degraded": False}
    return {"id": job_id, "status": "succeeded", **told}


@pytest.mark.parametrize("error", [ApiBusyError("8 at once"), ApiAwayError("cannot reach")])
def test_no_answer_is_lost_to_a_poll_that_failed(twenty, monkeypatch, error):
    polls = Counter()

    def job(_, job_id, __):
        polls[job_id] += 1
        if polls[job_id] < 3:
            raise error
        return finished(job_id)

    monkeypatch.setattr(Client, "job", job)
    done = CliRunner().invoke(main, ["submit", "twenty.txt", "--output", "out.jsonl"])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [f"to {job_id}" for job_id in twenty]


@pytest.mark.parametrize("error", [ApiFailedError("no job 'p3'"), ApiAwayError("cannot reach it")])
def test_what_was_accepted_is_told_where_its_end_is_not_seen(twenty, monkeypatch, error):
    monkeypatch.setattr(patience, "AWAY_SECONDS", 0.05)

    def job(_, job_id, __):
        if job_id == "p3":
            raise error
        raise ApiAwayError(str(error))

    monkeypatch.setattr(Client, "job", job)
    done = CliRunner().invoke(main, ["submit", "twenty.txt", "--output", "out.jsonl"])
    assert (done.exit_code, done.stdout.split()) == (2, twenty), done.output
    assert "20 accepted; follow one with `fallthrough status ID`" in done.stderr
    assert done.stderr.splitlines()[-1] == f"fallthrough: {error}"
    assert not Path("out.jsonl").exists()


def test_a_refusal_ends_the_other_polls(monkeypatch):
    monkeypatch.setattr(waiting, "POLLS_AT_ONCE", 2)
    api, goes_on = ApiDouble(), threading.Event()

    def job(job_id, _):
        api.polls[job_id] += 1
        if job_id == "refused":
            raise ApiFailedError("no job")
        goes_on.wait(10)
        return {"id": job_id, "status": "running", "tier_used": None}

    monkeypatch.setattr(api, "job", job)
    with pytest.raises(ApiFailedError):
        wait_for(api, ["long", "refused", "later"], Console(quiet=True))
    goes_on.set()
    wait_until(lambda: not any("ThreadPool" in each.name for each in threading.enumerate()))
    assert api.polls["long"] == 1


@pytest.mark.parametrize(("finished_at", "duration"), [(None, None), (12.5, 2500)])
def test_a_finished_job_took_its_time(finished_at, duration):
    assert milliseconds({"created_at": 10.0, "finished_at": finished_at}) == duration
