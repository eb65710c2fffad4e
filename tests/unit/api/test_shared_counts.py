"""Where several API processes count: in memory, and nothing is left of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from harness.waiting import wait_until

from api import shared_counts


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_counts, "MEMORY", str(tmp_path / "memory"))
    (tmp_path / "memory").mkdir()
    return tmp_path / "memory"


def aged(folder):
    long_ago = time.time() - 2 * shared_counts.LEFT_SECONDS
    os.utime(folder, (long_ago, long_ago))
    return folder


def test_they_lie_in_memory_as_long_as_somebody_counts(memory):
    with shared_counts.counts_folder() as folder:
        assert Path(folder).parent == memory
        assert Path(folder).stat().st_mode & 0o777 == 0o700
    assert not list(memory.iterdir())


def test_where_there_is_none_they_lie_with_temporary_files(memory):
    memory.rmdir()
    with shared_counts.counts_folder() as folder:
        assert Path(folder).parent == Path(tempfile.gettempdir())
    assert not Path(folder).exists()


def test_what_a_killed_process_left_is_removed_and_nothing_else(memory):
    left = aged(Path(tempfile.mkdtemp(prefix=shared_counts.PREFIX, dir=memory)))
    (left / "counter_0.db").write_bytes(b"0")
    aged(left)
    young = Path(tempfile.mkdtemp(prefix=shared_counts.PREFIX, dir=memory))
    others = aged(Path(tempfile.mkdtemp(prefix="other-", dir=memory)))
    with shared_counts.counts_folder() as held:
        aged(held)
        with shared_counts.counts_folder() as second:
            found = {str(each) for each in memory.iterdir()}
    assert found == {held, second, str(young), str(others)}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of another process")
@pytest.mark.parametrize("ends", ["before", "meanwhile"])
def test_the_cpu_time_of_a_process_that_ended_stays_counted(ends, monkeypatch):
    resources = shared_counts._Resources(os.getpid())

    def cpu_seconds():
        [cpu] = (each for each in resources.collect() if each.name == "process_cpu_seconds")
        return cpu.samples[0].value

    def end(child):
        child.kill()
        child.wait()

    before = cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        wait_until(lambda: cpu_seconds() > before + 1)
        at_work = cpu_seconds()
        if ends == "before":
            end(child)
        else:  # between the looks at who there is and at what each has used
            children = resources._children()
            monkeypatch.setattr(resources, "_children", lambda: (end(child), children)[1])
        assert cpu_seconds() >= at_work
