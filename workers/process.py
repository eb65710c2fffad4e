"""A worker process from start to exit: `python -m workers`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import socket
from typing import TYPE_CHECKING, Any

from celery import signals

from tasks.app import create_app
from tasks.broker.publisher import Publisher
from tasks.execution.jobs import SliceRunner
from tasks.execution.lines import LineRunner
from tasks.execution.phases import Phases
from tasks.records.batches import PHASES, UNIT
from tasks.records.jobs import Queue
from tasks.recovery.leases import Leases
from tasks.recovery.sweeper import Sweeper
from tasks.storage import Storage
from tasks.store.batches import BatchStore
from tasks.store.connection import connect
from tasks.store.files import FileStore
from tasks.store.jobs import JobStore
from tasks.store.retrying import Insist
from tasks.tiers.answering import Answering
from tasks.tiers.build import build_breakers, build_cache, build_tiers, log_event, tier_configs
from tasks.tiers.slots import FleetPlaces, LocalPlaces
from workers.health import health_app, listen, serve
from workers.loop import LoopThread
from workers.metrics import WorkerMetrics
from workers.pause import Pause, pause_step
from workers.pulse import Pulse, pulse_step
from workers.release import release_step

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tasks.records.jobs import Pairs
    from tasks.settings import Settings
    from tasks.tiers.slots import Places

INTERACTIVE_THREADS = 64
BEGUN_SHARE = 1.5
GARBAGE_THRESHOLDS = (20_000, 20, 20)
HAND_OVER_SECONDS = 5.0  # what cut-off calls get to be handed over, after the drain

log = logging.getLogger(__name__)


class WorkerProcess:
    """Everything that one worker process holds. run() is its whole life."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = f"{settings.worker_queues.replace(',', '-')}-{os.getpid()}"
        self._loop = LoopThread()
        self._pulse = Pulse()
        self._pause = Pause()
        self._metrics = WorkerMetrics()
        self._app = create_app(settings)
        self._publisher = Publisher(self._app, tier_configs(settings), self._metrics)
        self._background: list[asyncio.Task[Any]] = []

    def run(self) -> int:
        """Work until told to stop; return the exit status.

        Raises StoreUnfit or StoreUnavailable when the store will not do, OSError for a taken port.
        """
        health_socket = listen(self._settings.worker_host, self._settings.worker_port)
        self._loop.start()
        self._publisher.start()
        self._loop.call(self._open(health_socket))
        host, port = health_socket.getsockname()[:2]
        log.info("worker %s: health on http://%s:%d", self._name, host, port)
        worker = self._celery_worker()
        # What is there now stays, and what a slice makes is let go by its own reference counts:
        # looking through all of it every 700 allocations is a tenth of a busy worker's time.
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        signals.worker_shutting_down.connect(self._shutting_down, weak=False)
        worker.start()  # blocks; a SIGTERM ends it when all that it began is done
        self._loop.call(self._close(), timeout=HAND_OVER_SECONDS)
        self._publisher.stop()
        self._loop.stop()
        log.info("worker %s: stopped", self._name)
        return int(worker.exitcode or 0)

    def _celery_worker(self) -> Any:
        self._app.steps["consumer"].add(pulse_step(self._pulse))
        self._app.steps["consumer"].add(pause_step(self._pause))
        self._app.steps["consumer"].add(release_step(self._pulse))
        return self._app.Worker(
            pool="threads",
            concurrency=self._threads(),
            queues=self._queues(),
            hostname=f"{self._name}@{socket.gethostname()}",
            loglevel=self._settings.log_level,
            task_events=True,
            without_gossip=True,
            without_mingle=True,
            quiet=True,
        )

    def _queues(self) -> list[str]:
        queues = [queue for queue in self._settings.worker_queues.split(",") if queue]
        return [*queues, Queue.PHASES.value] if Queue.BATCH.value in queues else queues

    def _threads(self) -> int:
        lone = Queue.INTERACTIVE.value in self._settings.worker_queues
        return self._settings.worker_threads or self._units() + lone * INTERACTIVE_THREADS

    def _units(self) -> int:
        """Return how many slices of batches are at work at once: lone jobs have threads left."""
        settings = self._settings
        if settings.worker_threads:
            mixed = len(settings.worker_queues.split(",")) > 1
            return max(settings.worker_threads // 2, 1) if mixed else settings.worker_threads
        # About 1.5 times the lines that may be called at once: more would only keep them from
        # other workers; fewer, and slices end in lockstep.
        return math.ceil(BEGUN_SHARE * settings.gpu_concurrency / settings.slice_lines) + 1

    async def _open(self, health_socket: socket.socket) -> None:
        settings = self._settings
        self._store = store = JobStore(connect(settings.redis_url), settings)
        await store.check()
        breakers = build_breakers(settings, store, self._breaker_event)
        tiers, self._http = build_tiers(settings, breakers)
        gpu, cpu = LocalPlaces(settings.gpu_concurrency), settings.cpu_concurrency
        places: dict[tuple[str, Queue], Places] = {
            ("gpu", Queue.INTERACTIVE): gpu,
            ("gpu", Queue.BATCH): gpu.second,
            ("cpu", Queue.INTERACTIVE): FleetPlaces(store, "cpu", cpu),
            # In a GPU outage a batch would take every place; the last is kept for lone requests.
            ("cpu", Queue.BATCH): FleetPlaces(store, "cpu", max(cpu - 1, 1)),
        }
        cache = build_cache(settings, store, breakers)
        answering = Answering(settings, tiers, cache, breakers, places, self._metrics)
        leases = Leases(store, settings.lease_seconds, set(places.values()))
        self._answering = answering
        self._insist = insist = Insist()
        self._jobs = SliceRunner(store, self._publisher, answering, leases, insist, self._metrics)
        batches, files = BatchStore(store, settings), FileStore(store, Storage(settings.files_url))
        self._phases = Phases(batches, files, self._publisher, leases, insist, settings.slice_lines)
        self._lines = LineRunner(
            *(batches, files, self._publisher, answering, leases, self._phases, insist),
            *(self._metrics, self._units()),
        )
        by_tier = {
            tier: {p for (name, _), p in places.items() if name == tier} for tier, _ in places
        }
        self._metrics.watch(leases, by_tier, self._pulse, self._pause)
        self._app.runner = self._run_slice
        sweeper = Sweeper(
            *(store, files, self._publisher, self._name, settings.sweep_seconds, self._metrics)
        )
        port = health_app(self._pulse, store, self._metrics.registry)
        works = [leases.keep(), leases.listen(), sweeper.keep(), serve(port, health_socket)]
        if Queue.BATCH.value in self._queues():
            works.append(self._pause.keep([tier.breaker for tier in tiers.values()]))
        for work in works:
            self._background.append(asyncio.create_task(self._guarded(work)))

    def _run_slice(self, tier: str, pairs: Pairs, queue: str, slice_id: str) -> Pairs:
        return self._loop.call(self._run(tier, pairs, queue, f"{self._name}:{slice_id}"))

    async def _run(self, tier: str, pairs: Pairs, queue: str, lease_owner: str) -> Pairs:
        first_id, attempt = pairs[0]
        if tier in PHASES:
            await self._phases.run(tier, first_id, attempt, lease_owner)
            return []
        if first_id.startswith(UNIT):
            return await self._lines.run(tier, first_id, attempt, lease_owner)
        return await self._jobs.run(tier, pairs, queue, lease_owner)

    def _breaker_event(self, event: object) -> None:
        log_event(event)
        self._metrics.breaker_event(event)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        # Without its leases, sweeper or health port a worker is no worker: let it be restarted.
        try:
            await work
        except Exception:
            log.exception("a part of the worker died")
            logging.shutdown()
            os._exit(70)

    def _shutting_down(self, **_: Any) -> None:
        # In a signal handler: only start what the loop does. Celery has stopped consuming when
        # the current tasks end; they end sooner since the drain hands back what waits.
        if not self._pulse.draining:
            self._pulse.draining = True
            asyncio.run_coroutine_threadsafe(self._drain(), self._loop.loop)

    async def _drain(self) -> None:
        counting = asyncio.create_task(self._store.count("drains"))
        await self._answering.drain(self._settings.drain_seconds)
        self._insist.cut_off = True
        await counting

    async def _close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self._http.aclose()
        await self._store.close()
