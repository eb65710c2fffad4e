"""RabbitMQ as it may be found: without its virtual host, with other queues, impatient."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from harness.flower import flower
from harness.rabbitmq import RabbitServer
from harness.waiting import answers, wait_until

from tasks.app import create_app
from tasks.broker.publisher import Publisher
from tasks.records.jobs import Queue, Ref
from tasks.settings import Settings

# Who has not acknowledged within 2 s loses its channel: 30 min by default.
IMPATIENT = "-rabbit consumer_timeout 2000 -rabbit channel_tick_interval 500"


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory):
    server = RabbitServer(tmp_path_factory.mktemp("rabbit"), IMPATIENT)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def fleet_on(fleet):
    """Starts an API and a worker on a broker's URL; they need not become ready."""

    def start(url):
        fleet.settings["FALLTHROUGH_BROKER_URL"] = url
        return fleet.api().start(ready=False), fleet.worker().start(ready=False)

    return start


def all_ready(processes):
    # All of them each time: one that has ended fails the test.
    return {process.ready() for process in processes} == {True}


def answer_to(api, prompt):
    job = httpx.post(f"{api.url}/v1/jobs", json={"prompt": prompt}, timeout=30).json()
    return httpx.get(f"{api.url}/v1/jobs/{job['id']}?wait=20", timeout=30).json()


def check_it_is_refused_and_named(processes, cause):
    """Both say what is wrong, a few times at most, and none ends."""
    api, worker = processes
    refused = wait_until(lambda: try_job(api))
    assert refused.status_code == 503
    for process in processes:
        wait_until(lambda log=process: cause in log.log)
        assert not answers(f"{process.url}/health/ready")
    lines = worker.log.count(cause)
    wait_until(lambda: worker.log.count(cause) > lines, 10, "it tries again")
    assert worker.log.count(cause) < lines + 3, "and not in a loop"
    assert "Frequent restarts" not in worker.log


def try_job(api):
    try:
        return httpx.post(f"{api.url}/v1/jobs", json={"prompt": "too early"}, timeout=30)
    except httpx.ConnectError:
        return None


def test_a_virtual_host_that_is_not_there_is_waited_for_and_named(rabbit, fleet_on):
    processes = fleet_on(rabbit.url_of("later"))
    check_it_is_refused_and_named(processes, "vhost later not found")
    rabbit.add_vhost("later")
    wait_until(lambda: all_ready(processes), 10)
    assert answer_to(processes[0], "at last")["status"] == "succeeded"


def test_a_queue_that_was_declared_otherwise_is_waited_for_and_named(rabbit, fleet_on):
    url = rabbit.add_vhost("classic")
    classic = {"durable": True, "arguments": {"x-queue-type": "classic"}}
    rabbit.ask("PUT", "queues/classic/interactive", classic)
    processes = fleet_on(url)
    check_it_is_refused_and_named(processes, "inequivalent arg 'x-queue-type'")
    rabbit.ask("DELETE", "queues/classic/interactive")
    wait_until(lambda: all_ready(processes), 10)
    assert answer_to(processes[0], "at last")["status"] == "succeeded"


def test_queues_that_are_deleted_are_made_again(rabbit, fleet_on):
    processes = fleet_on(rabbit.add_vhost("deleted"))
    wait_until(lambda: all_ready(processes))
    assert answer_to(processes[0], "before")["status"] == "succeeded"
    for queue in Queue:
        rabbit.ask("DELETE", f"queues/deleted/{queue.value}")
    assert answer_to(processes[0], "after")["status"] == "succeeded"


def test_a_job_runs_once_though_the_broker_thinks_that_its_worker_takes_too_long(
    rabbit, fleet_on, fleet, gpu
):
    gpu.delay = 6.0
    fleet.settings["FALLTHROUGH_GPU_TIMEOUT_SECONDS"] = "20"
    api, worker = fleet_on(rabbit.add_vhost("impatient"))
    wait_until(lambda: all_ready((api, worker)))
    assert answer_to(api, "slow")["status"] == "succeeded"
    assert "delivery acknowledgement" in worker.log, "the broker did close the channel"
    assert gpu.prompts() == ["slow"]
    wait_until(lambda: all_ready((api, worker)), 10)


def test_what_is_no_task_is_dropped_counted_and_ends_nobody(rabbit, fleet_on):
    api, worker = fleet_on(rabbit.add_vhost("strange"))
    wait_until(lambda: all_ready((api, worker)))
    task = {"task": "os.system", "id": "x"}
    arguments = {"content_type": "application/json", "content_encoding": "utf-8"}
    strange = [
        ("", {}),
        ("hello", {}),
        ("{", arguments),
        ("5", arguments),
        ("null", {**arguments, "headers": {"task": "tasks.gpu"}}),
        ("[[5], {}, {}]", {**arguments, "headers": task}),
        ("x", {"content_type": "application/x-python-serialize", "headers": {"task": "tasks.gpu"}}),
    ]
    for payload, properties in strange:
        message = {"routing_key": "interactive", "payload": payload, "properties": properties}
        path = "exchanges/strange/amq.default/publish"
        assert rabbit.ask("POST", path, {**message, "payload_encoding": "string"})["routed"]
    name = "fallthrough_worker_messages_dropped_total"

    def dropped():
        metrics = httpx.get(f"{worker.url}/metrics").text.splitlines()
        return float(next(line for line in metrics if line.startswith(name)).split()[1])

    wait_until(lambda: dropped() == len(strange))
    assert answer_to(api, "after them")["status"] == "succeeded"
    assert worker.process.poll() is None


def limits_of(rabbit, vhost):
    """How many messages of each queue the broker lets a worker hold."""
    found = rabbit.ask("GET", f"consumers/{vhost}")
    names = {queue.value for queue in Queue}
    limits = {each["queue"]["name"]: each["prefetch_count"] for each in found}
    return {name: limit for name, limit in limits.items() if name in names}


def test_begun_work_does_not_wait_behind_fresh_work(rabbit, fleet, gpu, cpu):
    gpu.delay = 0.3
    gpu.plan = lambda call: "500" if call.prompt == "begun" else "ok"
    fleet.settings["FALLTHROUGH_BROKER_URL"] = rabbit.add_vhost("begun")
    api, _ = fleet.start(fleet.api(), fleet.worker(worker_threads=4))
    with httpx.Client(base_url=api.url, timeout=30) as http:
        prompts = ["begun", *(f"fresh {n}" for n in range(40))]
        # One after the other: each is a message of its own.
        jobs = [http.post("/v1/jobs", json={"prompt": p}).json()["id"] for p in prompts]
        gauges = http.get("/metrics", headers={"accept": "application/json"}).json()["metrics"]
        assert gauges["load_interactive"] >= 20, "what KEDA scales by"
        done = http.get(f"/v1/jobs/{jobs[0]}?wait=20").json()
        assert (done["status"], done["tier_used"]) == ("succeeded", "cpu")
        assert len(gpu.calls) < 12, "the backlog is still there"
        assert all(
            http.get(f"/v1/jobs/{job}?wait=20").json()["status"] == "succeeded" for job in jobs
        )
    limits = wait_until(lambda: limits_of(rabbit, "begun"))
    assert set(limits) == {queue.value for queue in Queue}
    fresh = sum(limit for queue, limit in limits.items() if not Queue(queue).is_begun)
    assert fresh <= 4 + 1, "of four threads and two spare ones, one is never taken by fresh work"


async def test_a_queue_is_empty_when_no_message_waits_in_it(rabbit):
    app = create_app(Settings(broker_url=rabbit.add_vhost("depths")))
    publisher = Publisher(app, ["gpu"])
    publisher.start()
    try:
        assert await publisher.empty(["interactive", "batch"]) == {
            "interactive": True,
            "batch": True,
        }
        refs = [Ref("job_1", 0)]
        await asyncio.gather(*(publisher.publish("gpu", "batch", refs) for _ in range(3)))
        assert await publisher.empty(["interactive", "batch"]) == {
            "interactive": True,
            "batch": False,
        }
        assert rabbit.ask("GET", "queues/depths/batch")["type"] == "quorum"
    finally:
        await publisher.stop()


def test_flower_shows_queues_and_workers_of_rabbitmq(rabbit, fleet_on, tmp_path):
    url = rabbit.add_vhost("flower")
    processes = fleet_on(url)
    wait_until(lambda: all_ready(processes))
    settings = {"FALLTHROUGH_BROKER_URL": url, "FLOWER_BROKER_API": rabbit.api_url}
    with flower(tmp_path, **settings) as where:

        def tasks():  # of the first ones it may have missed the beginning, which has their name
            assert answer_to(processes[0], "seen")["status"] == "succeeded"
            found = httpx.get(f"{where}/api/tasks", timeout=10).json()
            return [t for t in found.values() if t["state"] == "SUCCESS" and t["name"]]

        assert wait_until(tasks)[0]["name"] == "tasks.gpu"
        queues = wait_until(
            lambda: httpx.get(f"{where}/api/queues/length", timeout=10).json()["active_queues"]
        )
        assert {"interactive", "batch"} <= {queue["name"] for queue in queues}
        page = httpx.get(f"{where}/broker", timeout=10).text
        assert "interactive" in page
