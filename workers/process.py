"""A worker process from start to exit: `python -m workers`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import math
import secrets
import socket
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import signals

from circuit_breaker.events import StateChanged
from tasks import process
from tasks.app import create_app
from tasks.background import Background
from tasks.broker.publisher import Publisher
from tasks.drain import Drain
from tasks.errors import SettingsError
from tasks.execution.context import Context
from tasks.execution.jobs import JobRunner
from tasks.execution.messages import Message, MessageRunner, Runners
from tasks.execution.phases import PhaseRunner
from tasks.execution.units import UnitRunner
from tasks.hosts import http_url, shown_host
from tasks.records.jobs import Queue, new_token
from tasks.recovery.leases import Leases
from tasks.recovery.recaller import Recaller
from tasks.recovery.sweeper import Sweeper
from tasks.storage import Storage
from tasks.store import open_store
from tasks.store.retrying import Retrying
from tasks.telemetry.slices import report_to
from tasks.tiers.answerer import Answerer
from tasks.tiers.build import build_breakers, build_tiers, log_event, tier_configs
from tasks.tiers.changes import follow_breakers
from workers.consumer import Consumer
from workers.health import health_app, serve
from workers.loop import LoopThread
from workers.metrics import WorkerMetrics
from workers.pause import Pause, pause_step
from workers.pulse import Pulse, pulse_step
from workers.release import release_step
from workers.stops import HURRIES, worker_class
from workers.troubles import TroubleWatch

if TYPE_CHECKING:
    from tasks.records.jobs import Ref
    from tasks.settings import Settings
    from tasks.telemetry.slices import SliceReport

INTERACTIVE_THREADS = 64
BEGUN_SHARE = 1.5
COUNT_SECONDS = 2.0  # between two times that the fleet is told what it counts
# By which tasks send the next one of their chain; each that was used once stays open.
TASK_CONNECTIONS = 2
SPARE_THREADS = 2  # which fresh work never takes: what has begun once does not wait for it

log = logging.getLogger(__name__)


class WorkerProcess:
    """Everything that one worker process holds. run() is its whole life."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # In a container every worker is pid 1, and a restarted one keeps its host's name.
        self._name = f"{'-'.join(settings.queues)}-{secrets.token_hex(4)}@{socket.gethostname()}"
        self._loop = LoopThread()
        self._pulse = Pulse()
        self._pause = Pause()
        self._metrics = WorkerMetrics(settings.model_tiers)
        self._app = create_app(settings)
        self._background = Background(self._metrics.loop_died)
        self._recaller: Recaller | None = None  # until all is open
        self._stopping: concurrent.futures.Future[None] | None = None
        self._told: Counter[str] = Counter()  # to stop, by signal

    def run(self) -> int:
        """Work until told to stop; return the exit status.

        Raises StoreUnfit or StoreUnavailable when the store will not do, SettingsError for a port
        that is taken.
        """
        process.pass_cancels_on()
        health_socket = self._listen()
        self._loop.start()
        self._loop.call(self._open(health_socket))
        where = http_url(*health_socket.getsockname()[:2])
        log.info("worker %s: health on %s", self._name, where)
        worker = self._celery_worker()
        process.freeze_garbage()
        process.give_back_memory()
        signals.worker_shutting_down.connect(self._shutting_down, weak=False)
        worker.start()  # blocks; a SIGTERM ends it when all that has a thread is done
        if self._stopping:
            concurrent.futures.wait([self._stopping])
        try:
            self._loop.call(self._close(), timeout=process.HAND_OVER_SECONDS)
        except TimeoutError:  # leases do the rest
            log.warning("worker %s: not closed in time", self._name)
        self._loop.stop()
        log.info("worker %s: stopped", self._name)
        return int(worker.exitcode or 0)

    def _listen(self) -> socket.socket:
        host, port = self._settings.worker_host, self._settings.worker_port
        try:
            return process.listen(host, port)
        except OSError as error:
            why = error.strerror or "it is no address of this machine"
            message = f"FALLTHROUGH_WORKER_PORT: cannot listen on {host}:{port}: {why}"
            raise SettingsError(message) from None

    def _celery_worker(self) -> Any:
        # How fresh work leaves threads for begun work: the first on Redis, the second on RabbitMQ.
        self._app.conf.broker_transport_options["spare"] = SPARE_THREADS
        self._app.conf.broker_pool_limit = TASK_CONNECTIONS
        for queue, prefetch in self._prefetch().items():
            self._app.amqp.queues[queue.value].prefetch = prefetch
        self._app.steps["consumer"].add(pulse_step(self._pulse))
        self._app.steps["consumer"].add(pause_step(self._pause))
        self._app.steps["consumer"].add(release_step(self._pulse))
        return worker_class(self._app)(
            consumer_cls=Consumer,
            pool="threads",
            concurrency=self._threads() + SPARE_THREADS,
            queues=self._queues(),
            hostname=self._name,
            loglevel=self._settings.log_level,
            task_events=True,
            without_gossip=True,
            without_mingle=True,
            quiet=True,
        )

    def _queues(self) -> list[str]:
        kinds = [Queue(queue) for queue in self._settings.queues]
        if Queue.BATCH in kinds:
            kinds.append(Queue.PHASES)
        return [queue.value for kind in kinds for queue in (kind.begun, kind)]

    def _threads(self) -> int:
        lone = Queue.INTERACTIVE.value in self._settings.queues
        return self._settings.worker_threads or self._units() + lone * INTERACTIVE_THREADS

    def _prefetch(self) -> dict[Queue, int]:
        """Return how many messages of each queue are held: of fresh work, one less than threads.

        What is small of batches lies with what has begun: of that, too, lone jobs have threads
        left. (On Redis, where one number is for all queues, the turns of units see to it.)
        """
        units, threads = self._units(), self._threads()
        lone = max(threads - units, 1) if self._mixed() else threads
        fresh = {Queue.INTERACTIVE: lone, Queue.BATCH: units, Queue.PHASES: 1}
        begun = {kind.begun: threads for kind in fresh}
        if self._mixed():
            small = {Queue.BATCH: units + lone // 2, Queue.PHASES: max(lone // 8, 1)}
            begun |= {kind.begun: most for kind, most in small.items()}
        return fresh | begun

    def _mixed(self) -> bool:
        return len(self._settings.queues) > 1

    def _units(self) -> int:
        """Return how many slices of batches are at work at once: lone jobs have threads left."""
        settings = self._settings
        if settings.worker_threads:
            mixed = self._mixed()
            return max(settings.worker_threads // 2, 1) if mixed else settings.worker_threads
        # About 1.5 times the lines that may be called at once: more would only keep them from
        # other workers; fewer, and slices end in lockstep.
        lines = max(tier.calls_here for tier in settings.model_tiers.values())
        return math.ceil(BEGUN_SHARE * lines / settings.slice_lines) + 1

    async def _open(self, health_socket: socket.socket) -> None:
        settings = self._settings
        storage = await asyncio.to_thread(Storage, settings.files_url)
        self._store = store = await open_store(settings, storage)
        breakers = build_breakers(settings, store.connection, self._breaker_event)
        self._metrics.know_breakers(breakers)
        self._tiers = tiers = build_tiers(settings, store, breakers)
        self._drain = drain = Drain()
        leases = Leases(store, settings.lease_seconds, tiers.all_slots)
        queues = store.connection if settings.queues_lie_in_store else None
        self._publisher = publisher = Publisher(
            self._app, tier_configs(settings), self._metrics, queues
        )
        publisher.start()
        context = Context(
            store=store,
            publisher=publisher,
            answerer=Answerer(settings, tiers, drain, self._metrics),
            leases=leases,
            drain=drain,
            retrying=Retrying(drain),
            observer=self._metrics,
        )
        phases = PhaseRunner(context, settings.slice_lines)
        most_first = self._prefetch()[Queue.BATCH_BEGUN]
        units = UnitRunner(context, phases, self._units(), most_first)
        self._messages = MessageRunner(context, Runners(JobRunner(context), units, phases))
        slots = {tier: tiers.slots_of(tier) for tier, _ in tiers.slots}
        self._metrics.watch(leases, slots, self._pulse, self._pause)
        self._app.runner = self._run_slice
        self._recaller = Recaller(
            store, publisher, context.answerer, knocks=settings.probe_models > 0
        )
        sweeper = Sweeper(store, publisher, self._metrics, self._name)
        port = health_app(self._pulse, store.connection, self._metrics.registry)
        start = self._background.start
        start("leases", leases.keep)
        start("cancellations", leases.listen)
        start("breakers", partial(follow_breakers, store.connection, breakers))
        start("sweeper", partial(sweeper.keep, settings.sweep_seconds))
        start("recaller", self._recaller.keep)
        start("room below", context.descent.listen)
        start("health port", partial(serve, port, health_socket))
        start("counts", self._keep_counts)
        endpoints = (each for tier in tiers.models.values() for each in tier.config.endpoints)
        hosts = {each.breaker_name: shown_host(each.url) for each in endpoints}
        watch = TroubleWatch(store.tiers, hosts, settings.silent_tier_seconds)
        start("tiers", partial(watch.keep, self._metrics.take_reports))
        if Queue.BATCH.value in self._queues():
            start("pause", partial(self._pause.keep, list(tiers.models.values())))

    def _run_slice(
        self, tier: str, refs: list[Ref], queue: str, following: str, report: SliceReport
    ) -> list[Ref]:
        return self._loop.call(self._run(Message(tier, refs, queue, following), report))

    async def _run(self, message: Message, report: SliceReport) -> list[Ref]:
        report_to(report)
        # A lease is this run's alone: a message that comes again, while it runs, finds it taken.
        return await self._messages.run(message, f"{self._name}:{new_token()}")

    def _breaker_event(self, event: object) -> None:
        log_event(event)
        self._metrics.breaker_event(event)
        if isinstance(event, StateChanged) and self._recaller:
            self._recaller.changed(probe_failed=event.opened_again)

    def _shutting_down(self, sig: str = "", **_: Any) -> None:
        # In a signal handler: only start what the loop does. Celery has stopped consuming when
        # the current tasks end; they end sooner since the drain hands back what waits.
        if not self._pulse.draining:
            self._pulse.draining = True
            process.end_after(self._settings.drain_seconds)
            stopping = asyncio.run_coroutine_threadsafe(self._stop_calls(), self._loop.loop)
            self._stopping = stopping
        self._told[sig] += 1
        if self._told[sig] == HURRIES.get(sig):
            self._loop.loop.call_soon_threadsafe(self._drain.hurry)

    async def _keep_counts(self) -> None:
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            await self._count()

    async def _count(self) -> None:
        untold = self._metrics.take_untold()
        if untold:
            await self._store.fleet.count(untold)

    async def _stop_calls(self) -> None:
        counting = asyncio.create_task(self._store.fleet.count({"drains": 1}))
        await self._drain.run(self._settings.drain_seconds)
        await counting

    async def _close(self) -> None:
        # Units may have begun to wait when the drain had ended already; none has a thread now. And
        # Celery may have ended by itself, or as it was told to over its remote control.
        await (self._drain.handed_over() if self._drain.started else self._drain.run(0))
        await self._count()
        await self._background.stop()
        with contextlib.suppress(Exception):
            await self._tiers.http.aclose()
        await self._publisher.stop()
        await self._store.close()
