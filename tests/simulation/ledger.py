"""The ledger: what must be so when all has ended, whatever broke."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from fsspec.implementations.memory import MemoryFileSystem

from simulation.broker import CeleryApp
from simulation.callers import BATCH_FINAL, JOB_FINAL
from simulation.loop import BEGIN, Node, current
from tasks.broker.publisher import Publisher
from tasks.records.batches import is_unit
from tasks.recovery.sweeper import Sweeper
from tasks.storage import Storage
from tasks.store import open_store
from tasks.store.keyspace import (
    BEGUN,
    COUNTED_FILES,
    DEADLINES,
    DISPATCHED,
    EVENTS,
    LAYOUT,
    LEASES,
    PARKED,
    QUEUED_BYTES,
    SENT_DOWN,
    STATS,
    STORED_BYTES,
    SWEEPER,
    WRITTEN,
)
from tasks.telemetry.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from simulation.upstream import Call
    from simulation.world import World

# What says what happens next: empty when nothing is to happen any more.
KINDS = {"jobs": "job:job_", "batches": "batch:batch_", "files": "file:file-"}
INDEXES = (LEASES, PARKED, DEADLINES, *DISPATCHED)
WORK = (*INDEXES, "permits:gpu", "permits:l4", "permits:cpu")
# Until who works on what is not his any more stops: a quarter of a lease, and what comes between.
STOPPED_SECONDS = 3.0
# What is there for ever: counters of the whole fleet, one each.
FOR_EVER = {STATS, EVENTS, BEGUN, LAYOUT, SWEEPER, WRITTEN}
LONGEST_SECONDS = 31 * 86_400  # that anything is kept


class Ledger:
    """One world's."""

    def __init__(self, world: World) -> None:
        self._world, self._server = world, world.server
        self._looked = 0.0
        self._known: dict[str, tuple[str | None, int]] = {}  # status and attempt, as last seen

    def _fields(self, key: str) -> dict[str, str]:
        return self._records([key])[key]

    def _records(self, keys: Iterable[str]) -> dict[str, dict[str, str]]:
        """Read hashes, all in one exchange."""
        keys = list(keys)
        found = self._server.all([("HGETALL", "{ft}:" + key) for key in keys])
        texts = [[each.decode() for each in flat] for flat in found]
        hashes = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in texts]
        return dict(zip(keys, hashes, strict=True))

    def _keys(self, pattern: str) -> list[str]:
        found = self._server.one("KEYS", "{ft}:" + pattern)
        return sorted(key.decode().removeprefix("{ft}:") for key in found)

    def work_left(self) -> dict[str, Any]:
        """Return what the indexes say is still to be done."""
        return {name: members for name, members in self._members(WORK).items() if members}

    def _members(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Read sorted sets, all in one exchange."""
        names = list(names)
        found = self._server.all([("ZRANGE", "{ft}:" + name, 0, -1) for name in names])
        return {
            name: [member.decode() for member in members]
            for name, members in zip(names, found, strict=True)
        }

    def is_quiet(self) -> bool:
        """Whether nothing is left to be done, or on its way to the store; looks once a second."""
        now = self._world.loop.time()
        if now < self._looked + 1:
            return False
        self._looked = now
        return not (self._world.store_link.late or self.work_left())

    def look(self) -> None:
        """Check that the indexes say what the records say, now in the middle of it."""
        if self._world.over:
            return
        listed: dict[str, set[str]] = {}
        for index, members in self._members(INDEXES).items():
            for member in members:
                listed.setdefault(member, set()).add(index)
        keys = self._keys("*")
        records = self._records(key for key in keys if _is_record(key))
        units: dict[str, set[str]] = {}
        for name, record in _of_kind("job", records):
            if is_unit(name):
                units.setdefault(record["batch"], set()).add(name)
            self._look_at_job(name, record, listed.pop(name, set()))
        for name, record in _of_kind("batch", records):
            self._look_at_batch(name, record, listed.pop(name, set()), units.pop(name, set()))
        self._look_at_results(key for key in keys if key.startswith("part:"))
        self._look_at_counts(records)
        self._look_at_what_was_sent_down(records)
        for name, at in (listed | units).items():
            self._world.violated(f"{name} is not there, and stands in {sorted(at)}")

    def _look_at_counts(self, records: Mapping[str, Mapping[str, str]]) -> None:
        """Check that as many bytes are counted as are there: of bodies, and of files."""
        bodies, files = Counter(), Counter()
        for name, record in _of_kind("job", records):
            if "body_bytes" in record and not is_unit(name):
                # Else it has ended; its request may be kept.
                _count(bodies, record["owner"], len(record["body"].encode()))
        entries = {}
        for _, record in _of_kind("file", records):
            _count(files, record["owner"], int(record["bytes"]))
            entries[record["id"]] = f"{record['bytes']} {record['owner']}"
        expected = {QUEUED_BYTES: bodies, STORED_BYTES: files, COUNTED_FILES: entries}
        for name, counted in self._records(expected).items():
            there = {key: str(n) for key, n in expected[name].items()}
            if counted != there:
                self._world.violated(f"{name} is {counted}, and there is {there}")

    def _look_at_what_was_sent_down(self, records: Mapping[str, Mapping[str, str]]) -> None:
        """Check that who has room at a tier stands there."""
        for unit, entry in self._fields(SENT_DOWN).items():
            tier = records.get(f"job:{unit}", {}).get("tier")
            if tier not in {entry.rpartition(":")[0], "part"}:
                self._world.violated(f"{unit} has room at {entry}, and stands at {tier}")

    def _look_at_results(self, keys: Iterable[str]) -> None:
        """Check that what a part holds is not kept twice."""
        for key in keys:
            _, batch, number = key.split(":")
            if self._server.one("GETBIT", "{ft}:batch:" + batch + ":written", number):
                self._world.violated(f"{key} is kept, and its part is written")

    def _look_at_job(self, name: str, record: dict[str, str], at: set[str]) -> None:
        violated, status = self._world.violated, record.get("status")
        expected = set()
        if status == "queued":
            expected.add("parked" if "parked" in at else f"dispatched:{record.get('queue')}")
        elif status == "running":
            expected.add("leases")
        if expected and not is_unit(name):
            expected.add("deadlines")
        if at != expected:
            violated(f"{name} is {status}, and stands in {sorted(at)}")
        if ("lease_owner" in record) != (status == "running"):
            violated(f"{name} is {status}, and leased by {record.get('lease_owner')}")
        self._only_forward(name, status, int(record["attempt"]))

    def _look_at_batch(
        self, name: str, record: dict[str, str], at: set[str], units: set[str]
    ) -> None:
        violated, status = self._world.violated, record.get("status")
        if at != ({"deadlines"} if status in {"validating", "in_progress"} else set()):
            violated(f"{name} is {status}, and stands in {sorted(at)}")
        known = self._server.one("SMEMBERS", "{ft}:batch:" + name + ":units")
        if {each.decode() for each in known} != units:
            violated(f"{name} has the units {sorted(units)}, and lists {sorted(known)}")
        if status not in BATCH_FINAL and not units:
            violated(f"{name} is {status}, and nobody works on it")
        self._only_forward(name, status, 0)

    def _only_forward(self, name: str, status: str | None, attempt: int) -> None:
        was = self._known.get(name)
        self._known[name] = status, attempt
        if was is None or self._world.forgotten:
            return
        if attempt < was[1] or (was[0] in JOB_FINAL | BATCH_FINAL and was[0] != status):
            self._world.violated(f"{name} was {was}, and is {(status, attempt)}")

    def check(self) -> None:
        """Check what the callers saw, and what is counted, against the records."""
        world = self._world
        world.checking = True
        self._check_records()
        self._check_latencies()
        for path, seen_all in (("jobs", world.callers.jobs), ("batches", world.callers.batches)):
            for seen in list(seen_all.values()):
                if seen.final is not None:
                    self._check_told(seen)
                    self._check_same(path, seen)
        self._check_lists()
        self._check_calls()

    def _check_records(self) -> None:
        violated, counted = self._world.violated, 0
        for key in self._keys("job:*"):
            record = self._fields(key)
            if key.startswith("job:unit_"):
                violated(f"{key} is left")
            elif record.get("status") not in JOB_FINAL:
                violated(f"{key} is {record.get('status')}")
            else:
                counted += 1
        for key in self._keys("batch:batch_*"):
            if key.count(":") > 1:
                continue
            record = self._fields(key)
            if record.get("status") not in BATCH_FINAL:
                violated(f"{key} is {record.get('status')}")
            counted += sum(int(n) for name, n in record.items() if name.startswith("by:"))
            self._check_batch(key, record)
        stats = sum(int(number) for number in self._fields("stats").values())
        if stats != counted:
            violated(f"{stats} ends are counted, and {counted} jobs and lines have ended")
        for pattern in ("part:*", "batch:*:units", "batch:*:written"):
            for key in self._keys(pattern):
                violated(f"{key} is left")

    def _check_latencies(self) -> None:
        succeeded = sum(
            self._fields(key).get("status") == "succeeded" for key in self._keys("job:job_*")
        )
        timed = sum(
            int(number) for key in self._keys("latency:*") for number in self._fields(key).values()
        )
        if timed != succeeded and self._world.loop.time() < BEGIN + 1000:
            self._world.violated(f"{succeeded} jobs succeeded, and {timed} are in the latencies")

    def _check_batch(self, key: str, record: dict[str, str]) -> None:
        total, done, failed = (int(record[name]) for name in ("total", "completed", "failed"))
        if record["status"] != "failed" and total != done + failed:
            self._world.violated(f"{key}: {done} + {failed} of {total} lines")

    def _check_same(self, path: str, seen: Any) -> None:
        """Check that what was final is as it was."""
        world, was, files = self._world, seen.final, dict(seen.files)
        if world.forgotten:
            return
        callers = world.callers
        follow = callers.follow_job if path == "jobs" else callers.follow_batch
        self._now(follow(seen.name))
        if seen.final != was or seen.files != files:
            world.violated(f"{seen.name} was {was}, and is {seen.final}")
        for owner in world.secrets:
            if owner != seen.ask.owner:
                reply = self._now(callers.insist(owner, "GET", f"/v1/{path}/{seen.name}"))
                if reply.status != 404:
                    world.violated(f"{owner} sees {seen.name} of {seen.ask.owner}")

    def _check_told(self, seen: Any) -> None:
        """Check that each follower was told the one answer, as it is kept, and how it ended."""
        world, succeeded = self._world, seen.final.get("status") == "succeeded"
        if world.forgotten:
            return
        answers = world.callers.answers_to(seen.ask, seen.line)
        for told in seen.told:
            faults = told.faults([seen.final["text"]] if succeeded else answers)
            if told.done != succeeded:
                faults.append(f"done: {told.done}, and the job {seen.final['status']}")
            longest = max((each.chunks for each in seen.told), key=len)
            if told.chunks != longest[: len(told.chunks)]:
                faults.append(f"it was {told.chunks}, and another was told {longest}")
            for fault in faults:
                world.violated(f"{seen.name}: a stream: {fault}")

    def _now(self, work: Any) -> Any:
        """Do a caller's work, and return what it comes to."""
        task = self._world.loop.start(self._world.loop.outside, work)
        self._world.loop.run_until(task.done, 200)
        return task.result()

    def _check_lists(self) -> None:
        """Check that each owner's lists name what the records say."""
        world = self._world
        for path, prefix in KINDS.items():
            owned: dict[str, set[str]] = {}
            for key in self._keys(prefix + "*"):
                if key.count(":") == 1:
                    record = self._fields(key)
                    owned.setdefault(record["owner"], set()).add(record["id"])
            for owner, names in owned.items():
                listed, after = [], ""
                while True:
                    page = self._now(
                        world.callers.insist(owner, "GET", f"/v1/{path}?limit=3{after}")
                    )
                    told = json.loads(page.content)
                    listed += [each["id"] for each in told["data"]]
                    if not told["has_more"]:
                        break
                    after = f"&after={listed[-1]}"
                if sorted(listed) != sorted(names):
                    world.violated(f"{owner}'s list of {path} is {listed}, not {sorted(names)}")

    def _check_calls(self) -> None:
        """Where no process and no link broke, no call ran twice."""
        world = self._world
        if world.only_breaks("broker", "redeliver", "model"):
            for seen in (*world.callers.jobs.values(), *world.callers.batches.values()):
                if seen.cancelled_at is not None:
                    self._check_stopped(seen, seen.cancelled_at)
        if world.only_breaks("broker", "redeliver", "term"):
            # An answer that comes as its worker's drain is over may be cut off with its call.
            answers = Counter(
                call.prompt
                for call in self._calls()
                if call.answered and call.gone() < call.node.drained_at
            )
            for prompt, number in answers.items():
                if number > 1:
                    world.violated(f"{prompt!r} was answered {number} times")
        if world.only_breaks("broker", "redeliver", "model", "pause", "crash", "term", "poison"):
            self._check_alone()

    def _calls(self) -> list[Call]:
        """Return the calls for jobs that only one request asked for: a chat is sent again."""
        chats = {ask.prompt(0) for ask in self._world.plan.asks if ask.kind == "chat"}
        return [call for call in self._world.models.calls if call.prompt not in chats]

    def _check_alone(self) -> None:
        """Check that nobody goes on with what is another's for longer than a lease is renewed."""
        calls: dict[str, list[Call]] = {}
        for call in self._calls():
            calls.setdefault(call.prompt, []).append(call)
        for prompt, same in calls.items():
            for first, second in itertools.combinations(same, 2):
                if _seconds_together(first, second) > STOPPED_SECONDS:
                    self._world.violated(
                        f"{prompt!r} ran in {first.node.name} and {second.node.name} at once"
                    )

    def _check_stopped(self, seen: Any, cancelled: float) -> None:
        """Check that nobody goes on with what was cancelled."""
        number = seen.ask.lines if seen.name.startswith("batch_") else 1
        prompts = {seen.ask.prompt(line) for line in range(number)}
        for call in self._world.models.calls:
            if call.prompt in prompts and call.gone() > cancelled + STOPPED_SECONDS:
                self._world.violated(f"{call.prompt!r} ran on after {seen.name} was cancelled")

    # When all is past its time

    def check_nothing_is_left(self) -> None:
        """Let all that is kept come to its time; then only counters may be there."""
        world = self._world
        node = Node("janitor")
        task = world.loop.start(node, self._clean())
        if not world.loop.run_until(task.done, 40 * LONGEST_SECONDS) or task.exception():
            world.violated(f"the cleaning did not end: {task}")
            return
        self._server.run(world.server_ms() + LONGEST_SECONDS * 1000, [])
        left = [key for key in self._keys("*") if key not in FOR_EVER]
        others = [
            key.decode()
            for key in self._server.one("KEYS", "*")
            if not key.startswith((b"{ft}:", b"{sim}:"))
        ]
        if left or others:
            world.violated(f"keys are left: {left + others}")
        files = [name for name in MemoryFileSystem.store if "/simulated" in name]
        if files and not world.forgotten:
            world.violated(f"files are left: {files}")

    async def _clean(self) -> None:
        world = self._world
        storage = Storage(world.settings.files_url)
        store = await open_store(world.settings, storage)
        publisher = Publisher(CeleryApp(world, current.get()), (), Observer())
        sweeper = Sweeper(store, publisher, Observer(), "janitor")
        for _ in range(3):
            await asyncio.sleep(LONGEST_SECONDS)
            for _ in range(3):
                await sweeper.sweep()
                await store.fleet.gauges()
                await asyncio.sleep(61)


def _is_record(key: str) -> bool:
    """Whether a key's value is a job's, a unit's, a batch's or a file's record."""
    kind, _, name = key.partition(":")
    return kind == "job" or (kind in {"batch", "file"} and ":" not in name)


def _of_kind(
    kind: str, records: Mapping[str, Mapping[str, str]]
) -> list[tuple[str, Mapping[str, str]]]:
    """Return the records of a kind, by name."""
    named = ((key.partition(":"), record) for key, record in records.items())
    return [(name, record) for (of, _, name), record in named if of == kind]


def _count(sums: Counter[str], owner: str, number: int) -> None:
    """Add to an owner's sum and to that of all; a sum of 0 is none."""
    for name in ("", owner) if number else ():
        sums[name] += number


def _seconds_together(first: Call, second: Call) -> float:
    """Return how long two calls ran at once, while both processes went on."""
    began = max(first.began, second.began)
    ended = min(first.gone(), second.gone())
    if ended <= began:
        return 0.0
    stopped = sum(
        max(min(ended, end) - max(began, start), 0.0)
        for node in {first.node, second.node}
        for start, end in node.pauses
    )
    return ended - began - stopped
