"""`./run soak`: an hour of load, and whether anything grew: memory, descriptors, connections, keys.

Nothing is killed, so that each process is the same one from the beginning to the end; but links are
cut, the model servers go away, and callers leave.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from chaos.ledger import Ledger
from chaos.load import Load
from chaos.plan import Plan
from chaos.report import commit, now
from chaos.run import say, until_it_ends
from chaos.stage import Stage, build
from fallback_chain.http import IDLE_CONNECTION_SECONDS
from tasks.store import keyspace
from tasks.store.keyspace import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESULTS = Path("docs/results/soak.jsonl")
TTL_SECONDS = 60  # how long results and answers are kept, so that what is kept comes to a level
SAMPLE_SECONDS = 10.0
WARM_SECONDS = 60.0  # of load and cut links, until pools and caches are what they will be
IDLE_SECONDS = IDLE_CONNECTION_SECONDS + 15.0  # until connections that nobody needs are closed
GONE_SECONDS = 180.0  # until the sweeper has cleared what is past its time
LONGEST_KEPT = 31 * 86_400  # seconds: anything
MOST_GROWTH = 5.0  # MB an hour of any process; judged from half an hour on
MOST_MORE = 5  # descriptors, or connections of the store, at the end
# Counters of the whole fleet, one each, and who is there.
FOR_EVER = {
    *(keyspace.WORKERS, keyspace.STATS, keyspace.EVENTS, keyspace.BEGUN),
    *(keyspace.LAYOUT, keyspace.SWEEPER, keyspace.WRITTEN),
}


Samples = defaultdict[str, list[tuple[float, float]]]  # of each process: seconds, megabytes


@dataclass
class Soak:
    """What a soak came to. Each list has a value for the beginning and one for the end."""

    seed: int
    commit: str
    began: str
    minutes: float
    jobs: int = 0
    lines: int = 0
    chats: int = 0
    megabytes: dict[str, tuple[float, float]] = field(default_factory=dict)
    megabytes_an_hour: dict[str, float] = field(default_factory=dict)
    descriptors: dict[str, tuple[int, int]] = field(default_factory=dict)
    connections: tuple[int, int] = (0, 0)
    keys: tuple[int, int] = (0, 0)
    problems: list[str] = field(default_factory=list)


def processes(stage: Stage) -> Iterator[tuple[str, int]]:
    """Yield the name and the id of each process that must not grow."""
    for process in stage.processes:
        assert process.process
        yield process.log_file.stem, process.process.pid
    assert stage.store.process
    yield "valkey", stage.store.process.pid


def megabytes(pid: int) -> float:
    """Return the memory that a process has for itself."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if "Private" in line) / 1024


def descriptors(stage: Stage) -> dict[str, int]:
    for upstream in (stage.gpu, stage.cpu):  # what is kept open to them is for the next calls
        upstream.vanish()
        upstream.listen()
    time.sleep(1)
    return {name: len(list(Path(f"/proc/{pid}/fd").iterdir())) for name, pid in processes(stage)}


def connections(stage: Stage) -> int:
    with stage.store.client() as client:
        return len(client.client_list())


def keys(stage: Stage) -> set[str]:
    with stage.store.client() as client:
        return {key.decode() for key in client.scan_iter(count=1000)}


def slope(samples: list[tuple[float, float]]) -> float:
    """Return the growth an hour of (seconds, value), by the medians of the first and last third.

    Only what comes after the first quarter counts: until then pools and caches fill.
    """
    settled = samples[len(samples) // 4 :]
    third = len(settled) // 3
    if not third:
        return 0.0
    (early, before), (late, after) = (
        (statistics.median(t for t, _ in part), statistics.median(v for _, v in part))
        for part in (settled[:third], settled[-third:])
    )
    return (after - before) / (late - early) * 3600


async def disturb(stage: Stage, dice: random.Random) -> None:
    """Cut links and take model servers away, one thing after the other, without an end."""

    def model_gone() -> None:
        stage.gpu.vanish()
        time.sleep(2)
        stage.gpu.listen()

    def clients_killed() -> None:
        with stage.store.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", dice.choice(["normal", "pubsub"]))

    acts: list[Callable[[], None]] = [model_gone, clients_killed]
    for link in stage.links.values():
        acts += [link.reset, link.finish]
    while True:
        for act in dice.sample(acts, len(acts)):
            await asyncio.sleep(dice.uniform(2, 10))
            await asyncio.to_thread(act)


async def leave(urls: list[str], dice: random.Random) -> None:
    """Ask, and go away before the answer is there, without an end."""
    async with httpx.AsyncClient() as http:
        for number in range(sys.maxsize):
            body = {"messages": [{"role": "user", "content": f"leaver {number}"}]}
            url, seconds = dice.choice(urls), dice.uniform(0.005, 0.2)
            with contextlib.suppress(httpx.TransportError):
                await http.post(f"{url}/v1/chat/completions", json=body, timeout=seconds)
            await asyncio.sleep(0.2)


async def load_for(seconds: float, load: Load, *others: asyncio.Task[None]) -> None:
    load.begin(jobs=3, chats=2, batches=1)
    await asyncio.sleep(seconds)
    for other in others:
        other.cancel()
    await load.end(60)
    await load.http.aclose()
    await asyncio.sleep(IDLE_SECONDS)


async def sample(stage: Stage, samples: Samples, ledger: Ledger, ended: Counter[str]) -> None:
    """Take a sample now and then; count, and forget, what has ended since the last."""
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        at = time.monotonic()
        for name, pid in processes(stage):
            samples[name].append((at, megabytes(pid)))
        for item in list(ledger.accepted.values()):
            if item.final_at:
                ended[item.what] += len(item.prompts)
                del ledger.accepted[item.id]
        for upstream in (stage.gpu, stage.cpu):
            upstream.calls.clear()
        ledger.runs.clear()


async def perform(seed: int, minutes: float, folder: Path) -> Soak:
    """Soak a fleet; return what it came to."""
    dice, ledger = random.Random(seed), Ledger()
    soak = Soak(seed, commit(), now(), minutes)
    stage = await asyncio.to_thread(
        build, folder, Plan(seed, "valkey", minutes * 60), dice, ledger.runs
    )
    for name in ("RESULT", "CACHE"):
        stage.fleet.settings[f"FALLTHROUGH_{name}_TTL_SECONDS"] = str(TTL_SECONDS)
    try:
        await asyncio.to_thread(stage.start)
        urls, keys_before = [api.url for api in stage.apis], keys(stage)
        disturbing = asyncio.create_task(disturb(stage, dice))
        await load_for(WARM_SECONDS, Load(urls, ledger, "warm", dice), disturbing)
        before = descriptors(stage), connections(stage)
        samples: Samples = defaultdict(list)
        ended: Counter[str] = Counter()
        sampling = asyncio.create_task(sample(stage, samples, ledger, ended))
        disturbing = asyncio.create_task(disturb(stage, dice))
        leaving = asyncio.create_task(leave(urls, dice))
        load = Load(urls, ledger, f"{seed}", dice)
        await load_for(minutes * 60, load, sampling, disturbing, leaving)
        after = descriptors(stage), connections(stage)
        soak.jobs, soak.lines, soak.chats = ended["job"], ended["batch"], ledger.chats
        for name, values in samples.items():
            soak.megabytes[name] = (round(values[0][1], 1), round(values[-1][1], 1))
            soak.megabytes_an_hour[name] = round(slope(values), 2)
        soak.descriptors = {name: (before[0][name], after[0][name]) for name in after[0]}
        soak.connections = (before[1], after[1])
        left = await asyncio.to_thread(keys_left, stage, keys_before)
        soak.keys = (len(keys_before), len(keys(stage)))
    finally:
        await asyncio.to_thread(stage.close)
    soak.problems = ledger.problems + judged(soak, left)
    return soak


def keys_left(stage: Stage, before: set[str]) -> list[str]:
    """Let all that is kept come to its time; return the keys that have none."""
    for host in (stage.store_host, stage.fleet_host):
        assert host, "clocks are set by a library that a C compiler makes"
        host.set_clock(LONGEST_KEPT)
    known = before | {PREFIX + name for name in FOR_EVER}

    until = time.monotonic() + GONE_SECONDS
    while (left := sorted(keys(stage) - known)) and time.monotonic() < until:
        time.sleep(1)
    return left


def judged(soak: Soak, left: list[str]) -> list[str]:
    """Return a sentence for each thing that grew."""
    problems = []
    if soak.minutes >= 30:
        problems += [
            f"{name} grew by {grown} MB an hour"
            for name, grown in soak.megabytes_an_hour.items()
            # What the store keeps for its time is no leak: its keys are looked at.
            if grown > MOST_GROWTH and name != "valkey"
        ]
    problems += [
        f"{name} had {first} descriptors, and has {last}"
        for name, (first, last) in soak.descriptors.items()
        if last > first + MOST_MORE
    ]
    first, last = soak.connections
    if last > first + MOST_MORE:
        problems.append(f"the store had {first} connections, and has {last}")
    if left:
        problems.append(f"{len(left)} keys are left: {left[:10]}")
    return problems


def table(soak: Soak) -> str:
    """Return it as a Markdown table."""
    connections, keys_ = soak.connections, soak.keys
    lines = [
        f"{soak.minutes:g} minutes: {soak.jobs:,} jobs, {soak.lines:,} lines, {soak.chats:,} chats",
        f"Connections of the store: {connections[0]} at first, {connections[1]} at last.",
        f"Keys: {keys_[0]}, {keys_[1]}. Commit {soak.commit}, seed {soak.seed}.",
        "",
        "| process | MB at first | at last | MB an hour | descriptors at first | at last |",
        "|---|---|---|---|---|---|",
    ]
    for name, (first, last) in soak.megabytes.items():
        grown, (some, more) = soak.megabytes_an_hour[name], soak.descriptors[name]
        lines.append(f"| {name} | {first} | {last} | {grown:+.2f} | {some} | {more} |")
    return "\n".join(lines)


def main() -> int:
    """Soak; return the exit status: 1 when something grew, or a promise was broken."""
    parser = argparse.ArgumentParser(prog="./run soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file to append to")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fallthrough-soak-"))
    soak = until_it_ends(perform(options.seed, options.minutes, folder))
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with options.results.open("a") as file:
        file.write(json.dumps(asdict(soak)) + "\n")
    sys.stdout.write(table(soak) + "\n")
    for sentence in soak.problems:
        say(sentence)
    if soak.problems:
        say(f"the logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
