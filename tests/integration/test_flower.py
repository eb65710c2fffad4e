"""Flower with the project's own settings."""

from __future__ import annotations

import re

import httpx
import openai
import pytest
from harness.batches import ended, line, start
from harness.flower import command, environ, flower
from harness.processes import python
from harness.waiting import free_port, wait_until

ANN, BOB = "ann!=ft-0123456789abcdef", "bob=ft-fedcba9876543210"


@pytest.fixture
def settings(valkey):
    return {"FALLTHROUGH_REDIS_URL": valkey.url}


def test_on_loopback_it_shows_everything_and_changes_nothing(tmp_path, fleet, settings):
    worker = fleet.worker().start()
    with flower(tmp_path, **settings, FLOWER_BASIC_AUTH="") as url:
        wait_until(lambda: len(httpx.get(f"{url}/api/workers?refresh=1").json()) == 1)
        [name] = httpx.get(f"{url}/api/workers").json()
        reply = httpx.post(f"{url}/api/worker/shutdown/{name}")
        assert (reply.status_code, "Read only" in reply.text) == (403, True)
        assert httpx.post(f"{url}/api/task/async-apply/tasks.gpu", json={}).status_code == 403
        assert "flower_" in httpx.get(f"{url}/metrics").text
    assert worker.ready()


@pytest.mark.parametrize("path", ["/api/tasks", "/tasks", "/api/workers"])
def test_on_loopback_no_page_of_another_site_reads_it(tmp_path, settings, path):
    with flower(tmp_path, **settings, FALLTHROUGH_ALLOWED_HOSTS="box") as url:
        seen = httpx.get(f"{url}{path}", headers={"Origin": "https://evil.example"})
        assert seen.is_success
        assert not [name for name in seen.headers if name.startswith("access-control-")]
        assert seen.headers["x-content-type-options"] == "nosniff"
        for host, status in (("evil.example", 403), ("localhost:1", 200), ("box", 200)):
            assert httpx.get(f"{url}{path}", headers={"Host": host}).status_code == status, host


def test_its_state_outlives_it_and_shows_the_tier_of_a_task(tmp_path, fleet, gpu, settings):
    api = fleet.api().start()
    with flower(tmp_path, **settings) as url:
        fleet.worker().start()
        body = {"messages": [{"role": "user", "content": "a secret prompt"}]}
        assert httpx.post(f"{api.url}/v1/chat/completions", json=body).is_success
        wait_until(lambda: "tasks.gpu" in httpx.get(f"{url}/api/tasks").text)
    fleet.stop()
    with flower(tmp_path, **settings) as url:
        tasks = httpx.get(f"{url}/api/tasks").json()
        assert [task["name"] for task in tasks.values()] == ["tasks.gpu"]
        shown = httpx.get(f"{url}/api/tasks").text + httpx.get(f"{url}/tasks").text
        assert "job_" in shown
        assert "secret" not in shown


@pytest.mark.parametrize(
    ("variables", "right", "wrong"),
    [
        ({"FLOWER_BASIC_AUTH": "eve:open sesame"}, ("eve", "open sesame"), ("eve", "x")),
        (
            {"FALLTHROUGH_API_KEYS": f"{BOB},{ANN}"},
            ("ann", "ft-0123456789abcdef"),
            ("bob", "ft-fedcba9876543210"),
        ),
    ],
    ids=["a password", "an admin's key"],
)
def test_beyond_loopback_it_asks_who_comes(tmp_path, settings, variables, right, wrong):
    with flower(tmp_path, "0.0.0.0", **settings, **variables) as url:  # noqa: S104 - it is the point
        for page in ("/", "/tasks", "/api/workers"):
            assert httpx.get(url + page).status_code == 401
            assert httpx.get(url + page, auth=wrong).status_code == 401
            assert httpx.get(url + page, auth=right, follow_redirects=True).is_success


def test_a_password_on_the_command_line_is_one(tmp_path, settings):
    with flower(tmp_path, "0.0.0.0", "--basic-auth=eve:open", **settings) as url:  # noqa: S104
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, auth=("eve", "open"), follow_redirects=True).is_success


def refusal(folder, *arguments, **variables):
    """The one line with which Flower does not start."""
    words = command(free_port(), *arguments)
    done = python(*words, environ=environ(folder, **variables), folder=folder)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    "consent", [{}, {"FALLTHROUGH_ALLOW_NO_KEYS": "1", "FALLTHROUGH_API_KEYS": BOB}]
)
def test_beyond_loopback_without_a_password_it_does_not_start(tmp_path, settings, consent):
    everywhere = "0.0.0.0"  # noqa: S104 - it is the point
    assert "FLOWER_BASIC_AUTH" in refusal(tmp_path, everywhere, **settings, **consent)


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ([], {"FLOWER_BASIC_AUTH": "admin:x,long-and-secret"}),
        (["127.0.0.1", "--basic-auth=admin:x,long-and-secret"], {}),
    ],
    ids=["variable", "command line"],
)
def test_a_password_with_a_comma_is_refused_and_not_cut_short(
    tmp_path, settings, arguments, variables
):
    said = refusal(tmp_path, *arguments, **settings, **variables)
    assert "entry 2 of 2 is not user:password" in said
    assert "choose a password without one" in said
    assert "secret" not in said


def test_state_and_result_of_a_task_say_what_became_of_its_slice_at_the_tier(
    tmp_path, fleet, gpu, cpu, settings
):
    api = fleet.api().start()
    gpu.plan = lambda call: "500" if "fail" in call.prompt else "ok"
    with flower(tmp_path, **settings) as url:
        fleet.worker(breaker_failure_threshold=50).start()

        def tasks():
            """Return (state, result) of each task, by its name."""
            found = {}
            for task in httpx.get(f"{url}/api/tasks").json().values():
                found.setdefault(task["name"], []).append((task["state"], task["result"]))
            return found

        # Flower is there to see it before anything happens.
        wait_until(lambda: httpx.get(f"{url}/api/workers?refresh=1").json())
        prompts = [*(f"a secret {n}" for n in range(3)), "a secret fail"]
        requests = [{"prompt": prompt, "cache": "off"} for prompt in prompts]
        gpu.delay = 0.2  # that they share a task
        assert httpx.post(f"{api.url}/v1/jobs", json={"requests": requests}).status_code == 202
        wait_until(lambda: len(tasks().get("tasks.cpu", [])) == 1 and "tasks.gpu" in tasks())
        answered = ("SUCCESS", "answered 1")
        wait_until(lambda: tasks()["tasks.cpu"] == [answered])
        expected = [("HANDED_ON", "answered 3, handed on 1 (failure HTTP 500)")]
        wait_until(lambda: tasks()["tasks.gpu"] == expected, what=f"{tasks()}")

        cpu.mode = "500"
        body = {"messages": [{"role": "user", "content": "a secret fail"}]}
        reply = httpx.post(f"{api.url}/v1/chat/completions", json=body)
        assert reply.headers["x-fallthrough-tier"] == "degraded"
        unanswered = [("UNANSWERED", "degraded 1 (miss)")]
        wait_until(lambda: tasks().get("tasks.cache") == unanswered, what=f"{tasks()}")
        assert ("HANDED_ON", "handed on 1 (failure HTTP 500)") in tasks()["tasks.cpu"]

        cpu.mode = "ok"
        with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any") as sdk:
            lines = [
                line(f"c{n}", f"a secret {word}") for n, word in enumerate(["a", "b", "c", "fail"])
            ]
            assert ended(sdk, start(sdk, lines).id).request_counts.completed == 4
        # A line of a batch waits for its first tier, and leaves as soon as the next has room.
        of_batch = {
            ("WAITING", "answered 3, waiting 1 (failure HTTP 500)"),
            ("HANDED_ON", "answered 3, handed on 1 (failure HTTP 500)"),
        }
        wait_until(lambda: len(tasks()["tasks.gpu"]) == 3, what=f"{tasks()}")
        wait_until(lambda: of_batch & {*tasks()["tasks.gpu"][:1], *tasks()["tasks.gpu"][-1:]})
        wait_until(lambda: tasks()["tasks.cpu"].count(answered) == 2, what=f"{tasks()}")

        seen = httpx.get(f"{url}/api/tasks?state=HANDED_ON").json()
        assert {task["state"] for task in seen.values()} == {"HANDED_ON"}
        counted = httpx.get(f"{url}/metrics").text
        assert re.search(r'flower_events_total\{.*type="task-handed_on".*\} ', counted)
        shown = httpx.get(f"{url}/api/tasks").text + httpx.get(f"{url}/tasks").text
        assert "secret" not in shown
