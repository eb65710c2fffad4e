"""One simulation: a seed's fleet, its callers, what breaks, and the ledger at the end."""

from __future__ import annotations

import contextlib
import logging
import random
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from simulation.broker import Broker, CeleryApp, SimulatedThread, Template, chain
from simulation.callers import OWNERS, Ask, Callers, asks_of
from simulation.faults import EVERYBODY, FAULT_SECONDS, Fault, Faults, plan_of
from simulation.ledger import Ledger
from simulation.loop import BEGIN, EPOCH, VirtualLoop, current, virtual
from simulation.nodes import Api, Worker
from simulation.store import Server, StoreLink, client_of
from simulation.upstream import Http, ModelServers
from tasks.execution.units import MOST_HELD
from tasks.settings import ALWAYS, EVERY_SECOND, Settings, TierSettings
from tasks.store.connection import load_scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from simulation.loop import Node

END_SECONDS = 400.0  # after the last fault, until all that was accepted must have ended
OPEN = MemoryFileSystem._open
SCRIPTS = load_scripts()  # read once, not by each process anew
SECRETS = {owner: f"the-secret-of-{owner}" for owner in OWNERS}
LOOK_SECONDS = 1.7  # between two looks at the store in the middle of it
START_AGAIN_SECONDS = 3.0  # until a process that died is there again, at most
QUEUES_ELSEWHERE = 0.4  # share of the runs in which the broker is not the store
TWO_TIERS = 0.6  # share of the runs in which no third is named


@dataclass(frozen=True)
class Plan:
    """What happens in a run, as far as it is decided before it begins."""

    seed: str
    workers: int
    apis: int
    threads: int
    units: int
    redelivers: bool
    answer_seconds: float  # of the model servers, on average
    settings: Settings
    older: Settings  # of every other process: they may know a tier less
    faults: tuple[Fault, ...]
    asks: tuple[Ask, ...]

    @classmethod
    def of(cls, seed: str) -> Plan:
        """Return a seed's."""
        rng = random.Random(f"{seed} plan")
        workers = rng.choice((1, 2, 2, 3))
        named, keyed = rng.random() < 0.5, rng.random() < 0.4
        settings = Settings(
            redis_url="unix:///simulated",
            files_url="memory://simulated",
            gpu_url="http://gpu",
            gpu_model="gpu-model" if named else "",
            gpu_timeout_seconds=rng.choice((5.0, 30.0)),
            gpu_concurrency=rng.choice((1, 2, 4)),
            cpu_url=rng.choice(("http://cpu", "http://cpu", "")),
            cpu_model="cpu-model" if named else "",
            cpu_timeout_seconds=30.0,
            cpu_concurrency=rng.choice((1, 2)),
            breaker_recovery_seconds=rng.choice((3.0, 15.0)),
            dispatch_grace_seconds=rng.choice((2.0, 10.0)),
            batch_window=rng.choice((1, 2)),
            slice_lines=rng.choice((1, 2, 3, 8)),
            drain_seconds=rng.choice((2.0, 20.0)),
            durable=rng.choice((EVERY_SECOND, EVERY_SECOND, ALWAYS)),
            api_keys=",".join(f"{owner}!={key}" for owner, key in SECRETS.items() if keyed),
            key_concurrency=rng.choice((0, 3)) if keyed else 0,
            key_requests_per_minute=rng.choice((0, 60)) if keyed else 0,
        )
        streams = random.Random(f"{seed} streams")
        seconds = streams.choice((2.0, 30.0))
        settings = replace(settings, gpu_next_token_seconds=seconds, cpu_next_token_seconds=seconds)
        if random.Random(f"{seed} queues").random() < QUEUES_ELSEWHERE:
            settings = replace(settings, broker_url="redis://elsewhere")
        settings, older = _with_tiers(settings, random.Random(f"{seed} tiers"))
        return cls(
            seed=seed,
            workers=workers,
            apis=rng.choice((1, 1, 2)),
            threads=rng.choice((2, 4, 16)),
            units=rng.choice((1, 2, 3)),
            redelivers=rng.random() < 0.5,
            answer_seconds=rng.choice((0.1, 0.5, 2.0, 6.0, 15.0)),
            settings=settings,
            older=older,
            faults=tuple(plan_of(rng, workers)),
            asks=tuple(asks_of(rng, streams)),
        )


def _with_tiers(settings: Settings, rng: random.Random) -> tuple[Settings, Settings]:
    """Return settings of three tiers, now and then, and those of who does not know the third."""
    if rng.random() < TWO_TIERS:
        return settings, settings
    l4 = TierSettings(
        "http://l4",
        "l4-model" if settings.gpu_model else "",
        timeout_seconds=rng.choice((5.0, 30.0)),
        concurrency=rng.choice((1, 3)),
        fleet_concurrency=rng.choice((0, 2)),
        wait_seconds=rng.choice((1.0, 10.0)),
    )
    tiers = rng.choice(("gpu,l4,cpu", "l4,gpu,cpu", "gpu,cpu,l4"))
    more = replace(settings, tiers=tiers, more_tiers=(("l4", l4),))
    return more, rng.choice((more, settings))


@dataclass
class Result:
    """What a run came to. trace: a number that two runs of one plan share."""

    violations: list[str]
    steps: int
    trips: int
    seconds: float  # virtual
    trace: int
    jobs: int
    batches: int
    schedule: list[str] = field(default_factory=list)
    scripts: set[str] = field(default_factory=set)


class World:
    """All that one simulation is made of."""

    def __init__(self, plan: Plan, server: Server) -> None:
        self.plan, self.settings = plan, plan.settings
        self.threads, self.units, self.redelivers = plan.threads, plan.units, plan.redelivers
        self.loop = VirtualLoop(self.rng("loop"))
        self.server = server
        self.callers: Callers | None = None  # until all begins
        self.clock_offset = 0.0  # of the server's clock, seconds
        self.forgotten: list[tuple[float, float]] = []  # from when to when all is lost
        self.violations: list[str] = []
        self.schedule: list[str] = []
        self.names: list[str] = []
        self.secrets = SECRETS if plan.settings.api_keys else {}
        self.unsynced = False  # what is written now will be lost
        self.vanished = False  # inputs of batches are gone from the storage
        self.checking = False  # what was seen before is looked at again
        self.over = False  # all has ended: nobody starts again, or asks
        self.closed = False  # what is still open is closed now

    def rng(self, name: str) -> random.Random:
        """Return a part's own chance: what one of them asks for moves no other."""
        return random.Random(f"{self.plan.seed} {name}")

    # What happens

    def note(self, text: str) -> None:
        """Write a line of the schedule."""
        self.schedule.append(f"{self.loop.time() - BEGIN:9.4f} {text}")

    def violated(self, text: str) -> None:
        """Say that a promise is broken."""
        if self.closed:
            return
        self.note(f"VIOLATED: {text}")
        self.violations.append(text)

    def server_ms(self) -> int:
        """Return the server's clock."""
        return int((self.loop.time() - BEGIN + EPOCH + self.clock_offset) * 1000)

    # The processes

    def begin(self) -> None:
        """Start the fleet and its callers."""
        self.server.empty()
        MemoryFileSystem.store.clear()
        self.broker = Broker(self)
        self.models = ModelServers(self)
        self.store_link = StoreLink(self, self.server)
        self.faults = Faults(self, list(self.plan.faults))
        self.places: list[Worker | Api] = []
        for kind in ("worker",) * self.plan.workers + ("api",) * self.plan.apis:
            self.places.append(self._process(kind))
        self._apis = self.rng("apis")
        self._starts = self.rng("starts")
        self.callers = Callers(self, list(self.plan.asks))
        self.ledger = Ledger(self)
        self._look()

    def _look(self) -> None:
        self.ledger.look()
        if self.loop.time() < BEGIN + 3 * FAULT_SECONDS:
            self.loop.outside_later(LOOK_SECONDS, self._look)

    def settings_of(self, name: str) -> Settings:
        """Return what a process is started with."""
        return self.plan.older if self.names.index(name) % 2 else self.plan.settings

    def _process(self, kind: str) -> Worker | Api:
        name = f"{kind}-{len(self.names)}"
        self.names.append(name)
        self.note(f"{name} starts")
        return Worker(self, name) if kind == "worker" else Api(self, name)

    def died(self, process: Worker | Api) -> None:
        """Start another one in its place."""
        self.note(f"{process.node.name} is dead")
        if not self.over:
            delay = self._starts.random() * START_AGAIN_SECONDS
            self.loop.outside_later(delay, self._replace, process)

    def _replace(self, process: Worker | Api) -> None:
        kind = "worker" if isinstance(process, Worker) else "api"
        if not self.over:
            self.places[self.places.index(process)] = self._process(kind)

    def processes_at(self, target: int) -> list[Worker | Api]:
        """Return the processes that a fault is about."""
        if target == EVERYBODY:
            return list(self.places)
        return [self.places[target % len(self.places)]]

    def is_at(self, node: Node, target: int) -> bool:
        """Whether a process is one that a fault is about."""
        return target == EVERYBODY or self.places[target % len(self.places)].node is node

    def an_api(self) -> Api | None:
        """Return an API that takes requests."""
        apis = [each for each in self.places if isinstance(each, Api) and each.open]
        return self._apis.choice(apis) if apis else None

    def only_breaks(self, *kinds: str) -> bool:
        """Whether nothing breaks in this run but things of these kinds."""
        return all(fault.kind in kinds for fault in self.plan.faults)

    # The storage and the store

    def lose_inputs(self) -> None:
        """Have somebody delete the files that batches read behind everybody's back."""
        self.vanished = True
        for name in [name for name in MemoryFileSystem.store if "/content/" in name]:
            if not name.endswith(("-output", "-error")):
                del MemoryFileSystem.store[name]

    def restart_store(self, seconds: float, *, forgets: bool) -> None:
        """Stop the store for so long. forgets: its last second is gone when it is back."""
        if self.store_link.down or self.unsynced:
            return
        if not forgets:
            self._stop_store(seconds, None)
            return
        snapshot, began = self.server.snapshot(), self.loop.time()
        lost = self.rng("forget").random()
        self.unsynced = True
        self.loop.outside_later(lost, self._stop_store, seconds, (snapshot, began))

    def _stop_store(self, seconds: float, kept: tuple[Any, float] | None) -> None:
        if kept:
            self.unsynced = False
        if self.store_link.down:
            return
        self.note("the store is down")
        self.store_link.down = True
        if kept:
            snapshot, began = kept
            self.forgotten.append((began, self.loop.time()))
            self.server.restore(snapshot)
        else:
            self.server.forget_scripts()
        self.store_link.restart()
        self.loop.outside_later(min(seconds, FAULT_SECONDS), self._start_store)

    def _start_store(self) -> None:
        self.note("the store is up")
        self.store_link.down = False

    def disk_syncs(self) -> bool:
        """Whether what the store has taken until now is on its disk in time."""
        return not self.unsynced and not self.faults.disk_is_slow()

    def may_be_forgotten(self, accepted: float) -> bool:
        """Whether the store lost what it had told of then, though it was accepted."""
        return self.settings.durable != ALWAYS and self.has_forgotten(accepted)

    def has_forgotten(self, told: float) -> bool:
        """Whether the store lost what it had told of then."""
        # An answer takes its time: what it tells was written a little before.
        return any(began <= told + 0.001 and told <= end + 30 for began, end in self.forgotten)

    # The whole

    def run(self) -> None:
        """Run until all has ended, and check the ledger."""
        self.begin()
        callers, loop, ledger = self.callers, self.loop, self.ledger
        loop.run_until(lambda: loop.time() > BEGIN + FAULT_SECONDS + 2, FAULT_SECONDS + 3)
        if not loop.run_until(lambda: callers.open == 0, END_SECONDS):
            self.violated(f"{callers.open} callers still wait: {self._unfinished()}")
        if not loop.run_until(ledger.is_quiet, END_SECONDS):
            self.violated(f"work is left: {ledger.work_left()}")
        ledger.check()
        self.over = True
        for process in self.places:
            process.node.alive = False
        ledger.check_nothing_is_left()
        self.violations += loop.defects
        self.closed = True

    def _unfinished(self) -> list[str]:
        every = [*self.callers.jobs.values(), *self.callers.batches.values()]
        return [seen.name for seen in every if seen.final is None]


def simulate(plan: Plan, server: Server) -> Result:
    """Run a plan."""
    world = World(plan, server)
    seeded = random.Random(f"{plan.seed} names")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with virtual(world.loop, seeded), _replaced(world):
            try:
                with _heard(world):
                    world.run()
            except Exception as error:  # what must not be may break the ledger, too
                world.closed = False
                world.violated(f"the run broke off: {error!r} {world.loop.defects[:1]}")
                world.closed = True
            finally:
                logging.disable()  # what is closed tells what nobody asks
                world.loop.close()
                logging.disable(logging.NOTSET)
    return Result(
        violations=world.violations,
        steps=world.loop.steps,
        trips=world.store_link.trips,
        seconds=world.loop.time() - BEGIN,
        trace=hash((world.loop.steps, world.loop.time(), tuple(world.schedule))),
        jobs=len(world.callers.jobs) if world.callers else 0,
        batches=len(world.callers.batches) if world.callers else 0,
        schedule=world.schedule,
    )


@contextlib.contextmanager
def _replaced(world: World) -> Iterator[None]:
    """Put the stand-ins where the product opens its sockets."""
    SimulatedThread.world = Http.world = world
    patches: Sequence[tuple[str, Any]] = (
        ("tasks.store.connection.load_scripts", lambda: SCRIPTS),
        ("tasks.store.connection.connect", lambda _: client_of(world)),
        ("tasks.tiers.build.HttptoolsHttp", Http),
        # Else few runs have so many units that one makes room for another.
        ("tasks.execution.units.MOST_HELD", world.rng("held").choice((1, MOST_HELD))),
        ("tasks.broker.chains.chain", chain),
        ("tasks.broker.couriers.BrokerThread", SimulatedThread),
        ("tasks.broker.store_courier.Template", Template),
        ("api.services.create_app", lambda _: CeleryApp(world, current.get())),
    )
    with contextlib.ExitStack() as stack:
        for name, value in patches:
            stack.enter_context(mock.patch(name, value))
        methods = {"_open": _open, "cat_file": MemoryFileSystem.cat_file, "rm": MemoryFileSystem.rm}
        for name, method in methods.items():
            value = _failing(world, method)
            stack.enter_context(mock.patch.object(MemoryFileSystem, name, value))
        yield


class _Object(MemoryFile):
    """A file of an object store: it appears when it is closed."""

    closed = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.commit()

    def __del__(self) -> None:
        """Do not close what a call that failed has opened."""


def _open(storage: MemoryFileSystem, path: str, mode: str = "rb", **options: Any) -> Any:
    return _Object(storage, path) if mode == "wb" else OPEN(storage, path, mode, **options)


def _failing(world: World, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of the storage's that fails when the faults say so, before it or after."""

    def failing(*args: Any, **options: Any) -> Any:
        if world.faults.storage_fails():
            raise OSError("the storage is away")
        result = method(*args, **options)
        if world.faults.storage_fails():
            raise OSError("the storage is away")
        return result

    return failing


class _Listener(logging.Handler):
    """What the product logs as an error is a defect; the rest is a line of the schedule."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname} {record.name}: {record.getMessage()}"
        if record.exc_info:
            text += f": {record.exc_info[1]!r}"
        if record.levelno >= logging.ERROR and "misconfigured" not in text:
            self._world.violated(text)
        else:
            self._world.note(text)


@contextlib.contextmanager
def _heard(world: World) -> Iterator[None]:
    root, listener = logging.getLogger(), _Listener(world)
    kept, level = root.handlers[:], root.level
    root.handlers[:] = [listener]
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
