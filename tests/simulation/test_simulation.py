"""The simulation: it holds, it repeats, it finds what is broken, and its store is a real one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from mutation import answers, breakers
from mutation.equivalents import EQUIVALENT
from mutation.scripts import mutants

from circuit_breaker.stores import scripts as breaker_scripts
from simulation.callers import Ask
from simulation.command import is_as_here, kind_of, shrunk, total, valkey
from simulation.coverage import Coverage
from simulation.faults import EVERYBODY, Fault
from simulation.ledger import Ledger
from simulation.store import PUBLISHED, TTL, Server
from simulation.world import Plan, simulate
from tasks.records.jobs import Queue
from tasks.store.connection import load_scripts

ROOT = Path(__file__).parents[2]
TRIES = 30


@pytest.fixture(scope="module")
def store():
    with valkey() as path:
        yield path


@pytest.fixture
def server(store):
    server = Server(store)
    yield server
    server.close()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": f"{ROOT}/tests:{ROOT}"}
    return subprocess.run(
        [sys.executable, "-m", "simulation", *arguments],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(300)
def test_two_hundred_seeds_break_no_promise():
    """Half of them on each of two cores."""
    with ThreadPoolExecutor(2) as pool:
        halves = pool.map(lambda half: run("--seeds", half, "--no-record"), ("1-100", "101-200"))
    for done in halves:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "100 seeds, 0 failed" in done.stdout


def test_a_seed_is_one_schedule():
    done = run("--seeds", "1-15", "--twice", "--no-record")
    assert done.returncode == 0, done.stdout + done.stderr


# It finds what is broken: plans in which a guard is needed, and what happens without it.


def ask(number, kind, at=0.5, lines=1):
    return Ask(
        number=number,
        kind=kind,
        owner="ann",
        at=at,
        lines=lines,
        keyed=False,
        repeats=False,
        cancels=None,
        cache="off",
        waits="wait",
        seconds=3600.0,
        tidies=False,
    )


def plan(name, answer_seconds, fault, asks):
    first = Plan.of("1")
    settings = replace(
        first.settings,
        tiers="gpu,cpu",
        more_tiers=(),
        gpu_model="gpu-model",
        gpu_timeout_seconds=30.0,
        gpu_concurrency=4,
        cpu_url="",
        slice_lines=2,
        batch_window=1,
        dispatch_grace_seconds=2.0,
        api_keys="",
        key_concurrency=0,
        key_requests_per_minute=0,
    )
    return Plan(
        seed=name,
        workers=2,
        apis=1,
        threads=16,
        units=2,
        redelivers=False,
        answer_seconds=answer_seconds,
        settings=settings,
        older=settings,
        faults=(fault,),
        asks=tuple(asks),
    )


def paused(at, seconds):
    return Fault("pause", at, seconds, target=0, steps=0, share=1.0, mode="")


JOBS = [ask(number, "job") for number in range(6)]
SPREAD_JOBS = [ask(number, "job", at=number) for number in range(6)]
BATCHES = [ask(number, "batch", lines=7) for number in range(3)]
DELAYS = Fault("broker", 0.0, 20.0, target=0, steps=0, share=0.6, mode="delays")
# Where a guard stands, how it is without it, and a try at a run that needs it.
GUARDS = {
    "the lease is the asker's": (
        *("_jobs.lua", "return h[1] == 'running' and h[2] == me", "return h[1] == 'running'"),
        lambda n: plan(f"lease {n}", 15.0, paused(1.5 + n % 5, 12.0), JOBS),
    ),
    "the attempt is the message's": (
        *(
            "begin_jobs.lua",
            "if mine and h[2] == tier and h[3] == attempt then",
        ),
        "if mine and h[2] == tier then",
        lambda n: plan(f"attempt {n}", 1.0, DELAYS, SPREAD_JOBS),
    ),
    "the first finish wins": (
        "finish_job.lua",
        "if h[1] ~= 'running' or h[2] ~= tier or h[3] ~= attempt then return 0 end",
        "if false then return 0 end",
        lambda n: plan(f"first {n}", 4.0, paused(1.0 + n % 4, 12.0), JOBS),
    ),
    "a slice that is written stays as it is": (
        "record_lines.lua",
        "if redis.call('GETBIT', written(id), slice) == 1 then return { -1, 0 } end",
        "if false then return { -1, 0 } end",
        lambda n: plan(f"written {n}", 3.0, paused(1.0 + n % 3, 11.0 + n % 7), BATCHES),
    ),
}


@pytest.mark.parametrize("guard", GUARDS)
def test_without_a_guard_a_promise_is_broken(store, server, guard):
    *key, try_of = GUARDS[guard]
    [mutant] = [each for each in mutants() if each.key == tuple(key)]
    unguarded = Server(store, mutant.scripts())
    for n in range(TRIES):
        found = simulate(try_of(n), unguarded).violations
        if found:
            break
    else:
        pytest.fail("no run needed it")
    unguarded.close()
    assert simulate(try_of(n), server).violations == []


def test_a_plan_that_fails_is_made_small(store):
    *key, try_of = GUARDS["the first finish wins"]
    [mutant] = [each for each in mutants() if each.key == tuple(key)]
    harmless = Fault("redeliver", 29.0, 0.0, target=1, steps=0, share=1.0, mode="")
    with contextlib.closing(Server(store, mutant.scripts())) as server:
        for tried in map(try_of, range(TRIES)):
            plan = replace(tried, faults=(*tried.faults, harmless))
            found = simulate(plan, server).violations
            if not found:
                continue
            small = shrunk(plan, server, found[0])
            assert harmless not in small.faults
            assert kind_of(found[0]) in map(kind_of, simulate(small, server).violations)
            if len(small.asks) < len(plan.asks):
                return
    pytest.fail("each needed all that was asked")


def test_what_comes_late_to_the_store_is_waited_for(server, monkeypatch):
    on_its_way = []
    monkeypatch.setattr(
        Ledger, "check", lambda ledger: on_its_way.append(ledger._world.store_link.late)
    )
    late = Fault("store", 27.0, 3.0, target=EVERYBODY, steps=0, share=1.0, mode="late")
    for n in range(5):
        simulate(plan(f"late {n}", 0.1, late, JOBS), server)
    assert on_its_way == [0] * 5


def test_seeds_count_once_and_only_on_code_as_it_is_now():
    rows = [
        '{"commit": "aaa", "seeds": "1-10", "failed": {"4": "lost"}}',
        '{"commit": "bbb", "seeds": "11-20", "failed": {"12": "lost"}}',
        '{"commit": "ccc", "seeds": "6-15", "failed": {}}',
    ]
    assert total(rows, {"aaa", "ccc"}.__contains__) == (15, 1)


@pytest.mark.parametrize("commit", ["abc1234+", "0000000"])
def test_code_of_which_git_knows_nothing_is_not_as_it_is_now(commit):
    assert not is_as_here(commit)


def test_what_is_named_an_equivalent_is_a_mutant_and_says_why():
    keys = {mutant.key for mutant in [*mutants(), *answers.mutants(), *breakers.mutants()]}
    assert set(EQUIVALENT) <= keys
    assert all(len(reason) > 20 for reason in EQUIVALENT.values())


# Its store is a real one: only time is another.


class Twice(Server):
    """Runs what it is asked on a plain database, too, with the product's own scripts."""

    def __init__(self, path):
        super().__init__(path)
        self.plain = Server(path)
        self.plain.one("SELECT", 1)
        self.compared = 0
        sources = [script.source for script in load_scripts().values()]
        sources += [script.source for script in breaker_scripts().values()]
        for source in sources:
            self.plain.one("SCRIPT", "LOAD", source)

    def empty(self):
        super().empty()
        self.plain.empty()

    def run(self, now_ms, commands):
        due = self.one("ZRANGEBYSCORE", TTL, "-inf", now_ms)
        if due:
            self.plain.one("DEL", *due)
        sent, plain = [], []
        for command in commands:
            if command[0] == "EVALSHA" and command[1] not in self._known:
                continue
            sent.append(command)
            translated = self._translated(now_ms, command)
            if command[0] == "EVALSHA":
                translated = ("EVALSHA", command[1], *translated[2:])
            plain.append(command if command[0] == "PEXPIRE" else translated)
        answers, published = super().run(now_ms, commands)
        if sent:
            ours = super().run(now_ms, [])[0]
            assert ours == []
            theirs = self.plain.raw(*plain)
            for command, answer in zip(sent, theirs, strict=True):
                mine = answers[[id(each) for each in commands].index(id(command))]
                read = self._callbacks.get(command[0], lambda value: value)
                value = read(answer)
                if command[0] != "PEXPIRE":
                    assert mine == value or repr(mine) == repr(value), command
                self.compared += 1
        return answers, published

    def differences(self):
        """Keys that are not the same in both databases, and whose time is limited in one alone."""
        dumps = []
        for each in (self, self.plain):
            keys = each.one("KEYS", "*")
            values = each.raw(*(("DUMP", key) for key in keys))
            dumps.append(dict(zip(keys, values, strict=True)))
        mine, theirs = dumps
        for key in (TTL, PUBLISHED):
            mine.pop(key.encode(), None)
        for queue in Queue:  # the broker's own
            theirs.pop(queue.value.encode(), None)
        different = {key for key in mine | theirs if mine.get(key) != theirs.get(key)}
        limited = {key for key in theirs if self.plain.one("PTTL", key) >= 0}
        return different, limited ^ set(self.one("ZRANGE", TTL, 0, -1))


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5, 6])
def test_every_script_answers_as_on_a_plain_server(store, seed):
    server, plan = Twice(store), Plan.of(str(seed))
    # A store that forgets is two: the plain one would remember.
    kept = tuple(fault for fault in plan.faults if fault.kind != "forget")
    result = simulate(replace(plan, faults=kept), server)
    assert result.violations == []
    assert server.compared > 100
    assert server.differences() == (set(), set())
    server.plain.close()
    server.close()


def test_the_coverage_names_what_was_never_reached(server):
    with Coverage() as coverage:
        simulate(Plan.of("1"), server)
    rows = {row.split()[1]: row for row in coverage.report().splitlines()}
    assert float(rows["api/routing.py"].split("%")[0]) > 90
    assert rows["api/__main__.py"].startswith("  0.0%")
