"""What a broker, its link or a worker can do to accepted work: the same on Valkey and RabbitMQ.

A ledger is kept at both ends: what clients were told, and what the model server was asked.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from signal import SIGKILL
from typing import TYPE_CHECKING

import httpx
import openai
import pytest
from conftest import quick_settings
from harness.batches import check_every_line_once, ended, line, start
from harness.processes import Fleet
from harness.proxy import Proxy
from harness.rabbitmq import RabbitServer
from harness.valkey import ValkeyServer
from harness.waiting import answers, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.processes import Process
    from harness.upstream import Upstream

CLIENTS = 6
CALL_SECONDS = 0.15
LONGER = 10.0 + 3.0  # s that somebody may wait longer than the outage, and a busy machine


@dataclass
class Client:
    """Submits a job, waits for its result, and begins again, until told to stop."""

    name: str
    url: str
    stop: threading.Event
    done: dict[str, float] = field(default_factory=dict)  # prompt: seconds until its result
    refused: list[int] = field(default_factory=list)  # statuses
    failures: list[str] = field(default_factory=list)

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as http:
            number = 0
            while not self.stop.is_set():
                number += 1
                try:
                    self._one(http, f"{self.name}-{number}")
                except (httpx.HTTPError, AssertionError, KeyError) as error:
                    self.failures.append(f"{self.name}-{number}: {error!r}")

    def _one(self, http: httpx.Client, prompt: str) -> None:
        began = time.monotonic()
        answer = http.post("/v1/jobs", json={"prompt": prompt})
        if answer.status_code != 202:
            self.refused.append(answer.status_code)
            self.stop.wait(0.1)
            return
        where = f"/v1/jobs/{answer.json()['id']}"
        job = http.get(f"{where}?wait=50").json()
        self.done[prompt] = time.monotonic() - began
        assert job["status"] == "succeeded", job
        assert job["text"] == f"gpu-model: {prompt}"
        assert http.get(where).json() == job, "what was seen once stays so"


@dataclass
class Stand:
    """A fleet whose broker is reached over a link, on one broker."""

    broker: ValkeyServer | RabbitServer
    link: Proxy
    fleet: Fleet
    gpu: Upstream
    api: Process
    workers: list[Process]
    allowed_twice: set[str] = field(default_factory=set)

    def ready(self) -> bool:
        return all(answers(f"{p.url}/health/ready") for p in (self.api, *self.workers))

    def noticed(self) -> None:
        """Wait until the API says that there is no broker."""
        wait_until(lambda: not answers(f"{self.api.url}/health/ready"), 15)

    def close_connections(self) -> None:
        if isinstance(self.broker, RabbitServer):
            wait_until(self.broker.close_connections)
        else:
            with self.broker.client() as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.fixture(scope="module", params=["valkey", "rabbitmq"])
def broker(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "valkey":
        server = ValkeyServer(folder, free_port())
        server.start()
        yield server
        server.kill()
    else:
        server = RabbitServer(folder)
        try:
            server.start()
            yield server
        finally:
            server.close()


@pytest.fixture(scope="module")
def stand(broker, module_valkey, module_gpu, module_cpu, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    link = Proxy(broker.url)
    settings = quick_settings(module_valkey.url, module_gpu, module_cpu, folder / "files")
    settings |= {"FALLTHROUGH_BROKER_URL": link.url, "FALLTHROUGH_LEASE_SECONDS": "3"}
    settings["FALLTHROUGH_GPU_TIMEOUT_SECONDS"] = "10"
    fleet = Fleet(folder, settings)
    module_gpu.delay = CALL_SECONDS
    api, *workers = fleet.start(fleet.api(), fleet.worker(), fleet.worker())
    yield Stand(broker, link, fleet, module_gpu, api, workers)
    fleet.stop()
    link.close()


@contextmanager
def killed_worker(stand: Stand) -> Iterator[None]:
    worker = stand.workers[0]
    wait_until(lambda: stand.gpu.running)
    worker.signal(SIGKILL)
    worker.wait()
    # What ran on it runs once more; which that is, only it knew. Some may still be on its way.
    time.sleep(0.5)
    stand.allowed_twice = set(stand.gpu.prompts())
    yield
    worker.start()


@contextmanager
def restarted_broker(stand: Stand) -> Iterator[None]:
    stand.broker.kill()
    stand.noticed()
    yield
    stand.broker.start()


@contextmanager
def stopped_broker(stand: Stand) -> Iterator[None]:
    with stand.broker.stopped():
        stand.noticed()
        yield


@contextmanager
def frozen_link(stand: Stand) -> Iterator[None]:
    stand.link.freeze()
    stand.noticed()
    yield
    stand.link.thaw()


@contextmanager
def refused_link(stand: Stand) -> Iterator[None]:
    stand.link.refuse()
    stand.noticed()
    yield
    stand.link.accept()


@contextmanager
def reset_link(stand: Stand) -> Iterator[None]:
    for _ in range(3):
        calls = len(stand.gpu.calls)
        stand.link.reset()
        wait_until(lambda calls=calls: len(stand.gpu.calls) > calls)
    yield


@contextmanager
def forgotten_routes(stand: Stand) -> Iterator[None]:
    stand.link.forget()
    yield


@contextmanager
def closed_connections(stand: Stand) -> Iterator[None]:
    stand.close_connections()
    yield


FAULTS = (
    killed_worker,
    restarted_broker,
    stopped_broker,
    frozen_link,
    refused_link,
    reset_link,
    forgotten_routes,
    closed_connections,
)


@contextmanager
def clients_of(stand: Stand, name: str) -> Iterator[list[Client]]:
    """Yield clients that are served already; afterwards each has waited for its last result."""
    stop = threading.Event()
    clients = [Client(f"{name}-{n}", stand.api.url, stop) for n in range(CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: all(client.done for client in clients), what="all clients are served")
        yield clients
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_nothing_is_lost_or_seen_twice_and_nobody_waits_much_longer_than_the_outage(
    stand, fault, record_property
):
    name = f"{type(stand.broker).__name__}-{fault.__name__}"
    lines = [f"{name}-line-{n}" for n in range(60)]
    stand.gpu.calls.clear()
    stand.allowed_twice = set()
    with (
        openai.OpenAI(base_url=f"{stand.api.url}/v1", api_key="none", max_retries=0) as sdk,
        clients_of(stand, name) as clients,
    ):
        batch = start(sdk, [line(each, each) for each in lines])
        wait_until(lambda: lines[0] in stand.gpu.prompts(), what="the batch has begun")
        began = time.monotonic()
        with fault(stand):
            pass
        outage = time.monotonic() - began
        wait_until(stand.ready, LONGER, "all are ready again")
        done = {client.name: len(client.done) for client in clients}
        wait_until(
            lambda: all(len(client.done) > done[client.name] + 1 for client in clients),
            LONGER,
            "every client is served again",
        )
        check_every_line_once(sdk, ended(sdk, batch.id, LONGER), lines)
    record_property("outage", outage)
    record_property("longest_wait", max(max(client.done.values()) for client in clients))
    check_ledger(stand, clients, lines, outage + LONGER)


def check_ledger(stand: Stand, clients: list[Client], lines: list[str], longest: float) -> None:
    assert [failure for client in clients for failure in client.failures] == []
    assert {status for client in clients for status in client.refused} <= {503}
    waits = {prompt: took for client in clients for prompt, took in client.done.items()}
    assert max(waits.values()) < longest, sorted(waits.values())[-10:]
    ran = Counter(stand.gpu.prompts())
    # Every answer was the model server's, and it saw nothing of what was refused.
    assert set(ran) == set(waits) | set(lines)
    twice = {prompt for prompt, times in ran.items() if times > 1} - stand.allowed_twice
    assert twice == set()
    for process in (stand.api, *stand.workers):
        assert process.process is not None
        assert process.process.poll() is None, process.log
