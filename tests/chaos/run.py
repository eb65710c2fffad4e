"""One run: faults one after the other, under load, and what became of all that was accepted."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from chaos.faults import Fault, all_faults
from chaos.ledger import Accepted, Ledger, lines_of, overlap
from chaos.load import Load
from chaos.machine import Stalls
from chaos.report import Result, Tally, commit, now
from chaos.stage import LEASE_SECONDS, READY_SECONDS, Stage, build, start_again
from tasks.settings import Settings
from tasks.store import keyspace
from tasks.store.keyspace import PREFIX

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from chaos.plan import Plan

T = TypeVar("T")

# A link that was lost without a word may be found so as late as this: by a call's limit (5 s).
SETTLE_SECONDS = 6.0
BOUND = 60.0  # seconds within which everything is final after a fault
# Nobody waits so many seconds longer than the outage; a batch's phases and slices may each meet it.
WAIT_BOUNDS = {"job": 10.0, "batch": 20.0}


@dataclass
class Cycle:
    """One fault, and who was under way when it struck, or came before all was well again."""

    fault: Fault
    in_flight: list[Accepted]
    began: float
    recovered: float = 0.0


@dataclass
class Director:
    """Inflicts the faults, and keeps account of them."""

    stage: Stage
    load: Load
    ledger: Ledger
    dice: random.Random
    stalls: Stalls = field(default_factory=Stalls)
    now: str = "before any fault"
    cycles: list[Cycle] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))

    async def act(self, fault: Fault) -> None:
        """Inflict a fault; return when everything is well again, or is not in time."""
        self.now = fault.name
        cycle = Cycle(fault, self.ledger.unfinished(), time.monotonic())
        await asyncio.to_thread(fault.inflict, self.stage, self.dice)
        healed = time.monotonic()
        tally = self.tallies[fault.name]
        await self.load.probe(BOUND)
        tally.probe_seconds.append(round(time.monotonic() - healed, 2))
        owed = [*cycle.in_flight, *self.ledger.accepted_between(cycle.began, healed)]
        await self._until_final(fault, owed, healed)
        last = max((item.final_at or healed for item in owed), default=healed)
        tally.final_seconds.append(round(max(last - healed, 0.0), 2))
        cycle.recovered = time.monotonic()
        if not self._stalled(cycle.began, cycle.recovered):
            self._check_waits(fault, owed, healed)
        for process in await asyncio.to_thread(self.stage.wait_until_ready):
            self.ledger.problem(
                f"{fault.name}: {process.log_file.stem} is not ready within {READY_SECONDS:g} s"
            )
        cycle.recovered = time.monotonic()
        tally.stalled += self._stalled(cycle.began, cycle.recovered)
        self.cycles.append(cycle)
        tally.times += 1
        seconds = f"{tally.probe_seconds[-1]:.1f} s, {tally.final_seconds[-1]:.1f} s"
        say(f"{len(self.cycles)} {fault.name}: {len(owed)} owed; {seconds}")

    def _stalled(self, begin: float, end: float) -> bool:
        # Then leases run out, and calls time out, for no fault of the product's.
        return self.stalls.longest(begin, end) > LEASE_SECONDS / 4

    def _check_waits(self, fault: Fault, owed: list[Accepted], healed: float) -> None:
        for what, bound in WAIT_BOUNDS.items():
            late = [
                item
                for item in owed
                if item.what == what and (item.final_at or healed) > healed + bound
            ]
            if late:
                last = max(late, key=lambda item: item.final_at or 0.0)
                self.ledger.problem(
                    f"{fault.name}: {len(late)} of {len(owed)} were final more than {bound:g} s "
                    f"after the outage; the last of them: {last.id} {last.shown or last.result}"
                )
        if self.tallies[fault.name].probe_seconds[-1] > WAIT_BOUNDS["job"]:
            self.ledger.problem(f"{fault.name}: no probe was answered in time")

    async def supervise(self) -> None:
        """Start again what ends by itself, as a supervisor does; note that it did."""
        while True:
            for process in self.stage.ended_by_themselves():
                status = process.wait()
                name = process.log_file.stem
                self.ledger.problem(f"{self.now}: {name} ended by itself with status {status}")
                await asyncio.to_thread(start_again, [process])
            await asyncio.sleep(0.2)

    async def _until_final(self, fault: Fault, owed: list[Accepted], healed: float) -> None:
        while unfinished := [item for item in owed if item.final_at is None]:
            if time.monotonic() > healed + BOUND:
                for item in unfinished:
                    self.ledger.problem(f"{fault.name}: {item.id} is not final within {BOUND:g} s")
                return
            await asyncio.sleep(0.02)

    def account(self) -> None:
        """Lay what was accepted, and what ran, to the fault that it met."""
        ends = [cycle.began for cycle in self.cycles[1:]] + [float("inf")]
        for cycle, end in zip(self.cycles, ends, strict=True):
            tally = self.tallies[cycle.fault.name]
            later = self.ledger.accepted_between(cycle.began, cycle.recovered)
            items = [*cycle.in_flight, *later]
            tally.in_flight += lines_of(cycle.in_flight)
            tally.accepted += lines_of(later)
            tally.lost += lines_of(each for each in items if each.result in (None, "not found"))
            tally.seen_twice += sum(item.id in self.ledger.changed for item in items)
            prompts = [prompt for item in items for prompt in item.prompts]
            # What ran again once the next fault had struck is that one's.
            repeated = [
                runs for runs in self.ledger.repeats(prompts) if cycle.began <= runs[1].start < end
            ]
            tally.ran_twice += len(repeated)
            tally.overlapping += sum(overlap(runs) for runs in repeated)
            if cycle.fault.once and not self._stalled(cycle.began, cycle.recovered):
                for runs in repeated:
                    times = ", ".join(
                        f"{run.tier} {run.start - cycle.began:.1f} to {run.end - cycle.began:.1f} s"
                        for run in runs
                    )
                    self.ledger.problem(
                        f"{cycle.fault.name}: {runs[0].prompt!r} ran twice: {times}"
                    )


def deck_of(faults: list[Fault], dice: random.Random) -> list[Fault]:
    """Return every fault once, in an order that the seed decides; those to be taken first last.

    Those by which nothing may run twice come after one another: what another fault left behind is
    not theirs.
    """
    return sorted(dice.sample(faults, len(faults)), key=lambda fault: fault.once)


def until_it_ends(work: Coroutine[Any, Any, T]) -> T:
    """Run what starts processes; SIGTERM ends it as Ctrl-C does, and them with it."""

    async def run() -> T:
        performing = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, performing.cancel)
        return await performing

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None


async def perform(plan: Plan, folder: Path) -> Result:
    """Run a plan; return what came of it."""
    dice, ledger, began = random.Random(plan.seed), Ledger(), now()
    stage = await asyncio.to_thread(build, folder, plan, dice, ledger.runs)
    try:
        await asyncio.to_thread(stage.start)
        load = Load([api.url for api in stage.apis], ledger, f"{plan.seed}", dice)
        faults = [fault for fault in all_faults(stage) if plan.has(fault.name)]
        director = Director(stage, load, ledger, dice)
        load.begin()
        supervisor = asyncio.create_task(director.supervise())
        start = time.monotonic()
        deck: list[Fault] = []
        while time.monotonic() < start + plan.seconds and len(director.cycles) != plan.most:
            deck = deck or deck_of(faults, dice)
            fault = deck.pop()
            if fault.once and director.cycles and not director.cycles[-1].fault.once:
                await asyncio.sleep(SETTLE_SECONDS)
            await asyncio.sleep(dice.uniform(0.1, 0.5))
            await director.act(fault)
        minutes = (time.monotonic() - start) / 60
        await load.end(BOUND)
        await check_the_end(stage, load, ledger)
        supervisor.cancel()
        director.account()
        director.stalls.stop()
        await load.http.aclose()
        say(
            f"{ledger.streams} streams, {ledger.interrupted} jobs broke off after their first words"
        )
    finally:
        await asyncio.to_thread(stage.close)
    kinds = {"job": 0, "batch": 0}
    for item in ledger.accepted.values():
        kinds[item.what] += len(item.prompts)
    return Result(
        seed=plan.seed,
        broker=f"{plan.broker}, durable" if plan.durable else plan.broker,
        commit=commit(),
        began=began,
        minutes=round(minutes, 2),
        faults=dict(director.tallies),
        problems=ledger.problems,
        jobs=kinds["job"],
        lines=kinds["batch"],
        chats=ledger.chats,
        left_out=[] if stage.store_host else ["disks and clocks: there is no C compiler"],
    )


async def check_the_end(stage: Stage, load: Load, ledger: Ledger) -> None:
    """Look at everything once more, and at what the store still holds."""
    for item in list(ledger.accepted.values()):
        if item.final_at is not None:
            await load.look(item)
    left = await asyncio.to_thread(left_over, stage)
    if left:
        ledger.problem(f"all is final, and the store holds {left}")
    counted, there = await asyncio.to_thread(counts, stage)
    if counted != there:
        ledger.problem(f"{there} results are in the store, and {counted} were counted")


def left_over(stage: Stage) -> dict[str, int]:
    """Return what is still listed as under way, with how many; waits for what ends by itself."""
    until = time.monotonic() + 30
    names = [keyspace.DEADLINES, keyspace.LEASES, keyspace.PARKED, *keyspace.DISPATCHED]
    names += [keyspace.slots(tier) for tier in Settings().model_tiers]
    while True:
        with stage.store.client() as client:
            left = {name: client.zcard(PREFIX + name) for name in names}
        left = {name: number for name, number in left.items() if number}
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.2)


def counts(stage: Stage) -> tuple[int, int]:
    """Return how many results were counted; and how many jobs and lines are there."""
    with stage.store.client() as client:
        counted = sum(int(value) for value in client.hgetall(PREFIX + keyspace.STATS).values())
        jobs = sum(1 for _ in client.scan_iter(PREFIX + keyspace.job("job_*"), count=1000))
        lines = 0
        for key in client.scan_iter(PREFIX + keyspace.batch("batch_*"), count=1000):
            if client.type(key) == b"hash":
                lines += sum(int(n) for n in client.hmget(key, "completed", "failed"))
    return counted, jobs + lines


def say(sentence: str) -> None:
    sys.stderr.write(f"chaos: {sentence}\n")
