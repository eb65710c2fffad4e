"""Jobs that the command line submits and waits for; the API is a double."""

from __future__ import annotations

from collections import Counter

import pytest
from click.testing import CliRunner
from rich.console import Console

from cli.client import ApiFailedError, Client
from cli.jobs import CHUNK, milliseconds, submit_prompts, wait_for
from cli.main import main
from cli.prompts import Prompt


class ApiDouble:
    """Keeps what is submitted; each job is running at the first poll, and finished at the next."""

    def __init__(self):
        self.chunks = []
        self.polls = Counter()

    def submit(self, requests):
        self.chunks.append(requests)
        return [{"id": request["prompt"]} for request in requests]

    def job(self, job_id, wait):
        self.polls[job_id] += 1
        status = "running" if self.polls[job_id] == 1 else "succeeded"
        return {"id": job_id, "status": status, "tier_used": "gpu"}


def test_many_prompts_are_submitted_in_chunks_and_in_order():
    api = ApiDouble()
    prompts = [Prompt(str(n), {"prompt": f"p {n}"}) for n in range(CHUNK + 1)]
    jobs = list(submit_prompts(api, prompts, {}))
    assert [len(chunk) for chunk in api.chunks] == [CHUNK, 1]
    assert [job["id"] for job in jobs] == [prompt.request["prompt"] for prompt in prompts]


def test_jobs_accepted_before_a_refusal_are_told(monkeypatch, tmp_path):
    def submit(client, requests):
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


def test_what_a_prompt_says_goes_before_the_default():
    api = ApiDouble()
    prompts = [Prompt("1", {"prompt": "a", "cache": "off"}), Prompt("2", {"prompt": "b"})]
    list(submit_prompts(api, prompts, {"cache": "first"}))
    assert [request["cache"] for request in api.chunks[0]] == ["off", "first"]


def test_each_job_is_polled_until_it_is_finished_and_told_once():
    api, listened = ApiDouble(), []
    jobs = wait_for(api, ["a", "b"], Console(quiet=True), lambda job: listened.append(job["id"]))
    assert {job["status"] for job in jobs.values()} == {"succeeded"}
    assert sorted(listened) == sorted(jobs) == ["a", "b"]


@pytest.mark.parametrize(("finished_at", "duration"), [(None, None), (12.5, 2500)])
def test_a_finished_job_took_its_time(finished_at, duration):
    assert milliseconds({"created_at": 10.0, "finished_at": finished_at}) == duration
