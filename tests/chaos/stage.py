"""What the faults happen to: two APIs and three workers on a store and a broker, over links."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.processes import Fleet, Process
from harness.proxy import Proxy
from harness.rabbitmq import RabbitServer
from harness.upstream import Call, Upstream
from harness.valkey import ValkeyServer
from harness.waiting import answers, free_port, wait_until

from chaos.host import Host, compiled
from chaos.ledger import Run

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable
    from pathlib import Path

    from chaos.plan import Plan

LEASE_SECONDS = 4
# Every outage is short, so that many fit into a minute.
SETTINGS = {
    "FALLTHROUGH_GPU_TIMEOUT_SECONDS": "5",
    "FALLTHROUGH_CPU_TIMEOUT_SECONDS": "5",
    "FALLTHROUGH_CPU_CONCURRENCY": "8",
    "FALLTHROUGH_CONNECT_TIMEOUT_SECONDS": "1",
    "FALLTHROUGH_BREAKER_RECOVERY_SECONDS": "1",
    "FALLTHROUGH_LEASE_SECONDS": str(LEASE_SECONDS),
    "FALLTHROUGH_SWEEP_SECONDS": "0.25",
    "FALLTHROUGH_DISPATCH_GRACE_SECONDS": "2",
    "FALLTHROUGH_DRAIN_SECONDS": "5",
    "FALLTHROUGH_SLICE_LINES": "8",
}
READY_SECONDS = 40.0


class CountingUpstream(Upstream):
    """A model server that takes 20 to 250 ms, and notes when each prompt ran."""

    runs: list[Run]
    random: random.Random

    async def _answer(self, call: Call, writer: Any) -> bool:
        run = Run(call.prompt, time.monotonic(), tier=self.name)
        self.runs.append(run)
        try:
            await asyncio.sleep(self.random.uniform(0.02, 0.25))
            return await super()._answer(call, writer)
        finally:
            run.end = time.monotonic()


@dataclass
class Stage:
    """All processes of one run, in one folder."""

    folder: Path
    store: ValkeyServer
    rabbitmq: RabbitServer | None  # the broker; None: the store is
    gpu: CountingUpstream
    cpu: CountingUpstream
    fleet: Fleet
    links: dict[str, Proxy]  # "api-store", "api-broker", "worker-store", "worker-broker"
    durable: bool
    store_host: Host | None  # None: there is no C compiler
    broker_host: Host | None  # of RabbitMQ
    fleet_host: Host | None
    apis: list[Process] = field(default_factory=list)
    workers: list[Process] = field(default_factory=list)
    told: set[int] = field(default_factory=set)  # pids that a fault ended

    @property
    def processes(self) -> list[Process]:
        return [*self.apis, *self.workers]

    @property
    def nodes(self) -> list[list[Process]]:
        """What would lie on one machine: an API and the workers beside it."""
        return [[self.apis[0], *self.workers[:2]], [self.apis[1], *self.workers[2:]]]

    def start(self) -> None:
        """Start everything; return when all are ready."""
        for kind, number, made in (("api", 2, self.apis), ("worker", 3, self.workers)):
            make = getattr(self.fleet, kind)
            for n in range(number):
                urls = {"redis_url": self.links[f"{kind}-store"].url}
                # The last one has but one link where one server is both, as it is by default.
                if self.rabbitmq or n < number - 1:
                    urls["broker_url"] = self.links[f"{kind}-broker"].url
                made.append(make(**urls))
        if self.fleet_host:
            for process in self.processes:
                process.environ |= self.fleet_host.environ
        self.fleet.start(*self.processes)

    def end(self, process: Process, number: signal.Signals) -> None:
        """Send a signal that ends a process."""
        if process.process is not None:
            self.told.add(process.process.pid)
            process.signal(number)

    def ended_by_themselves(self) -> list[Process]:
        """Return the processes that nobody told to end, and that have."""
        return [
            each
            for each in self.processes
            if each.process
            and each.process.poll() is not None
            and each.process.pid not in self.told
        ]

    def wait_until_ready(self) -> list[Process]:
        """Wait until all serve again; return those that do not, in time."""
        until = time.monotonic() + READY_SECONDS
        late = self.processes
        while late and time.monotonic() < until:
            late = [each for each in late if not answers(f"{each.url}/health/ready")]
            time.sleep(0.05)
        return late

    def close(self) -> None:
        for link in self.links.values():
            link.thaw()
        self.fleet.stop()
        for link in self.links.values():
            link.close()
        if self.rabbitmq:
            self.rabbitmq.close()
        self.store.kill()
        self.gpu.close()
        self.cpu.close()


def build(folder: Path, plan: Plan, chance: random.Random, runs: list[Run]) -> Stage:
    """Start the servers and the links; the fleet is made, and not started."""
    library = compiled(folder)
    store_host, broker_host, fleet_host = (
        Host(library, folder / f"{name}.host") if library else None
        for name in ("store", "broker", "fleet")
    )
    store = ValkeyServer(
        folder,
        free_port(),
        appendfsync="always" if plan.durable else "everysec",
        environ=store_host.environ if store_host else {},
    )
    store.start()
    rabbitmq = None
    if plan.broker == "rabbitmq":
        rabbitmq = _rabbitmq(folder / "rabbitmq", broker_host.environ if broker_host else {})
    upstreams = [CountingUpstream(f"{name}-model") for name in ("gpu", "cpu")]
    for upstream in upstreams:
        upstream.runs, upstream.random = runs, random.Random(chance.random())
        upstream.pace = 0.1
    links = {
        f"{kind}-{name}": Proxy(server.url)
        for kind in ("api", "worker")
        for name, server in (("store", store), ("broker", rabbitmq or store))
    }
    gpu, cpu = upstreams
    settings = {
        **SETTINGS,
        "FALLTHROUGH_GPU_URL": gpu.url,
        "FALLTHROUGH_CPU_URL": cpu.url,
        "FALLTHROUGH_FILES_URL": str(folder / "files"),
        "FALLTHROUGH_DURABLE": "always" if plan.durable else "everysec",
    }
    fleet = Fleet(folder, settings)
    hosts = (store_host, broker_host, fleet_host)
    return Stage(folder, store, rabbitmq, gpu, cpu, fleet, links, plan.durable, *hosts)


def _rabbitmq(folder: Path, environ: dict[str, str]) -> RabbitServer:
    folder.mkdir()
    server = RabbitServer(folder, environ=environ)
    server.start()
    return server


def wait_for_store(store: ValkeyServer) -> None:
    """Wait until a store that was started again serves what it had."""
    with store.client() as client:
        wait_until(client.ping, READY_SECONDS, "the store answers")


def start_again(processes: Iterable[Process]) -> None:
    """Start processes that have ended, side by side; they are not ready yet."""
    for process in processes:
        process.wait(READY_SECONDS)
        process.start(ready=False)
