"""The processes: workers and APIs, put together as their own entry modules do it."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from api.app import create_app
from api.routing import ABORT
from api.services import open_services
from circuit_breaker.events import StateChanged
from simulation.broker import CeleryApp, Consumer, Message
from simulation.loop import Node
from tasks.background import Background
from tasks.broker.publisher import Publisher
from tasks.drain import Drain
from tasks.errors import StoreUnavailable, StoreUnfit
from tasks.execution.context import Context
from tasks.execution.jobs import JobRunner
from tasks.execution.messages import Message as Asked
from tasks.execution.messages import MessageRunner, Runners
from tasks.execution.phases import PhaseRunner
from tasks.execution.units import UnitRunner
from tasks.process import HAND_OVER_SECONDS
from tasks.records.jobs import Queue, Ref, new_token
from tasks.recovery.leases import Leases
from tasks.recovery.recaller import Recaller
from tasks.recovery.sweeper import Sweeper
from tasks.storage import Storage
from tasks.store import open_store
from tasks.store.retrying import Retrying
from tasks.telemetry.observer import Observer
from tasks.tiers.answerer import Answerer
from tasks.tiers.build import build_breakers, build_tiers, log_event, tier_configs
from workers.process import SPARE_THREADS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from simulation.world import World
    from tasks.records.jobs import Swept

STARTING_SECONDS = 1.0  # until a supervisor starts again what could not start


class Worker:
    """What workers/process.py is, without Celery: its chain is followed here."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self.node = world, Node(name)
        self.node.on_death = self._died
        self.consumer = Consumer(
            node=self.node,
            queues=[queue.value for queue in Queue],
            free=world.threads + SPARE_THREADS,
            take=self._take,
        )
        self._working = 0
        self._draining = False
        self._recaller: Recaller | None = None
        world.loop.start(self.node, self._run())

    async def _run(self) -> None:
        try:
            await self._open()
        except (StoreUnavailable, StoreUnfit):  # exit status 2: its supervisor starts it again
            await asyncio.sleep(STARTING_SECONDS)
            self.node.die()
        except Exception as error:
            self._world.violated(f"{self.node.name} does not start: {error!r}")

    def _loop_died(self, name: str) -> None:
        self._world.violated(f"the loop {name} of {self.node.name} died")

    async def _open(self) -> None:
        world, settings = self._world, self._world.settings_of(self.node.name)
        self._background = Background(self._loop_died, end=self.node.die)
        storage = await asyncio.to_thread(Storage, settings.files_url)
        self._store = store = await open_store(settings, storage)
        queues = store.connection if settings.queues_lie_in_store else None
        app = CeleryApp(world, self.node)
        self._publisher = Publisher(app, tier_configs(settings), Observer(), queues)
        breakers = build_breakers(settings, store.connection, self._breaker_event)
        tiers = build_tiers(settings, store, breakers)
        self._drain = drain = Drain()
        # Not in the order of a set of what lies anywhere in memory.
        slots = [slots for _, slots in sorted(tiers.slots.items())]
        leases = Leases(store, settings.lease_seconds, slots)
        observer = Observer()
        context = Context(
            store=store,
            publisher=self._publisher,
            answerer=Answerer(settings, tiers, drain, observer),
            leases=leases,
            drain=drain,
            retrying=Retrying(drain),
            observer=observer,
        )
        phases = PhaseRunner(context, settings.slice_lines)
        units = UnitRunner(context, phases, world.units, world.units + 1)
        self._messages = MessageRunner(context, Runners(JobRunner(context), units, phases))
        self._recaller = Recaller(store, self._publisher, context.answerer, knocks=True)
        sweeper = Sweeper(store, self._publisher, observer, self.node.name)
        start = self._background.start
        start("leases", leases.keep)
        start("cancellations", leases.listen)
        start("sweeper", partial(sweeper.keep, settings.sweep_seconds))
        start("recaller", self._recaller.keep)
        start("room below", context.descent.listen)
        sweep = store.jobs.sweep
        store.jobs.sweep = lambda empty: self._watched(sweep(empty))  # type: ignore[method-assign]
        world.broker.consumers.append(self.consumer)
        world.broker.deliver()

    async def _watched(self, sweep: Awaitable[list[Swept] | None]) -> list[Swept] | None:
        """Check that what a sweep finds as sent, and never begun, is on its way."""
        swept, world = await sweep, self._world
        if world.only_breaks("model", "redeliver", "term"):
            for (name, attempt, *_), reason in swept or ():
                if reason == "unbegun" and not world.broker.holds((name, attempt - 1)):
                    world.violated(f"{name} was given out, and never sent")
        return swept

    def _breaker_event(self, event: object) -> None:
        log_event(event)
        if isinstance(event, StateChanged) and self._recaller:
            self._recaller.changed(probe_failed=event.opened_again)

    def _take(self, message: Message) -> None:
        if self.node.alive:
            self._world.loop.start(self.node, self._work(message))

    async def _work(self, message: Message) -> None:
        """Do what TierTask.run does, then what Celery does after it."""
        self._working += 1
        try:
            (tier, queue), *rest = message.steps
            refs = [Ref(*pair) for pair in message.pairs]
            asked = Asked(tier, refs, queue, rest[0].tier if rest else "")
            try:
                left = await self._messages.run(asked, f"{self.node.name}:{new_token()}")
            except StoreUnavailable:  # after the drain: Celery logs it, and acknowledges
                left = []
            except Exception as error:
                left = []
                self._world.violated(f"a task of {self.node.name} failed: {error!r}")
            if left and rest and not self._world.faults.broker_is_away():
                pairs = [tuple(ref) for ref in left]
                self._world.broker.publish(Message(rest, pairs))
            self._world.broker.acknowledge(self.consumer, message)
        finally:
            self._working -= 1

    def terminate(self) -> None:
        """Take a SIGTERM."""
        if not self._draining:
            self._draining = True
            now, drain = self._world.loop.time(), self._world.settings.drain_seconds
            self.node.drained_at = now + drain
            self._world.loop.start(self.node, self._stop())

    async def _stop(self) -> None:
        self._world.broker.cancel(self.consumer)
        if not hasattr(self, "_messages"):
            self.node.die()
            return
        watchdog = self._world.settings.drain_seconds + HAND_OVER_SECONDS
        asyncio.get_running_loop().call_later(watchdog, self.node.die)
        counting = asyncio.create_task(self._store.fleet.count({"drains": 1}))
        await self._drain.run(self._world.settings.drain_seconds)
        await counting
        while self._working:
            await asyncio.sleep(0.05)
        await self._drain.handed_over()
        await self._background.stop()
        await self._store.close()
        self.node.die()

    def _died(self) -> None:
        self._world.broker.lost(self.consumer)
        self._world.died(self)


class Gone(Exception):  # noqa: N818 - reads as what happened
    """The connection ended before the reply did."""


class Reply:
    """What a request came to. whole: its body was not broken off."""

    def __init__(
        self, status: int, headers: dict[str, str], content: bytes, *, whole: bool = True
    ) -> None:
        self.status, self.headers, self.content, self.whole = status, headers, content, whole


class Reader(NamedTuple):
    """Who reads a reply. leave: after so many seconds he goes away. heard: takes it as it comes."""

    leave: float | None
    heard: Callable[[bytes], None] = lambda _: None


class Api:
    """What api/__main__.py is, without uvicorn: requests come in as ASGI."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self.node = world, Node(name)
        self.node.on_death = self._died
        self.open = False
        self._requests: set[asyncio.Future[Reply]] = set()
        self._services: Any = None
        self._settings = world.settings_of(name)
        self._app = create_app(self._settings)
        self._draining = False
        world.loop.start(self.node, self._run())

    async def _run(self) -> None:
        self._stopped = asyncio.Event()
        try:
            async with open_services(self._settings, self._app.state.metrics) as services:
                self._services = self._app.state.services = services
                self.open = True
                await self._stopped.wait()
        except (StoreUnavailable, StoreUnfit):
            await asyncio.sleep(STARTING_SECONDS)
        self.node.die()

    def terminate(self) -> None:
        """Take a SIGTERM."""
        if not self._draining:
            self._draining = True
            self._world.loop.start(self.node, self._stop())

    async def _stop(self) -> None:
        self.open = False
        if self._services is None:
            self.node.die()
            return
        drain = self._world.settings.drain_seconds
        self._services.draining = True
        self._services.waiters.close_in(max(drain - 1, drain / 2))
        until = self._world.loop.time() + drain
        while self._requests and self._world.loop.time() < until:
            await asyncio.sleep(0.1)
        self._stopped.set()

    def _died(self) -> None:
        self.open = False
        for reply in sorted(self._requests, key=hash):
            self._world.loop.outside_later(0.001, _fail, reply, Gone())
        self._requests.clear()
        self._world.died(self)

    async def request(
        self,
        method: str,
        path: str,
        content: bytes,
        headers: dict[str, str],
        reader: Reader,
    ) -> Reply:
        """Send a request; raises Gone."""
        loop = self._world.loop
        reply: asyncio.Future[Reply] = loop.create_future()
        left: asyncio.Future[None] = loop.create_future()
        self._requests.add(reply)
        scope = _scope(method, path, headers)
        loop.start(self.node, self._serve(scope, content, reply, left, reader.heard))
        try:
            async with asyncio.timeout(reader.leave):
                return await reply
        except TimeoutError:
            if not left.done():
                left.set_result(None)
            raise Gone from None
        finally:
            self._requests.discard(reply)

    async def _serve(
        self,
        scope: dict[str, Any],
        content: bytes,
        reply: asyncio.Future[Reply],
        left: asyncio.Future[None],
        heard: Callable[[bytes], None],
    ) -> None:
        body = [{"type": "http.request", "body": content, "more_body": False}]
        started: dict[str, Any] = {}
        chunks: list[bytes] = []

        async def receive() -> dict[str, Any]:
            if body:
                return body.pop()
            await asyncio.wait({left})
            return {"type": "http.disconnect"}

        def end(*, whole: bool) -> None:
            found = {name.decode(): value.decode() for name, value in started["headers"]}
            told = Reply(started["status"], found, b"".join(chunks), whole=whole)
            self._world.loop.outside_later(0.001, _settle, reply, told)

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                started.update(message)
                return
            chunks.append(message.get("body", b""))
            self._world.loop.outside_later(0.001, heard, chunks[-1])
            if not message.get("more_body", False):
                end(whole=True)

        scope["extensions"] = {ABORT: partial(end, whole=False)}
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            self._world.violated(f"{scope['method']} {scope['path']} raised {error!r}")
        finally:
            with contextlib.suppress(asyncio.InvalidStateError):
                self._world.loop.outside_later(0.01, _fail, reply, Gone())


def _scope(method: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


def _settle(reply: asyncio.Future[Reply], value: Reply) -> None:
    if not reply.done():
        reply.set_result(value)


def _fail(reply: asyncio.Future[Reply], error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)
