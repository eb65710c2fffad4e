"""A test that hangs ends, however it hangs, and so does its run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import timeouts

TESTS = Path(timeouts.__file__).parents[1]
QUICK = """
from harness import timeouts
timeouts.AGAIN_SECONDS = timeouts.TEARDOWN_SECONDS = 0.2
"""
IN_THE_TEST = "import time\ndef test_it(): time.sleep(100)"
WHERE_A_LOOP_TAKES_IT = """
import asyncio, time
def test_it():
    loop = asyncio.new_event_loop()
    loop.call_soon(time.sleep, 100)  # the loop logs what is raised here, and goes on
    loop.run_forever()
"""
IN_A_FIXTURE = """
import pytest, threading
@pytest.fixture
def never():
    threading.Event().wait()
def test_it(never): pass
"""
AND_IN_WHAT_CLEANS_UP = """
import pytest, threading
@pytest.fixture
def clean():
    yield
    threading.Event().wait()
@pytest.fixture
def also_clean(clean):
    yield
    threading.Event().wait()
def test_it(also_clean): threading.Event().wait()
"""
AFTER_A_FAILURE = AND_IN_WHAT_CLEANS_UP.replace(
    "(also_clean): threading.Event().wait()", "(clean): 1 / 0"
)


WAYS = {
    "test": IN_THE_TEST,
    "loop": WHERE_A_LOOP_TAKES_IT,
    "fixture": IN_A_FIXTURE,
    "cleaning": AND_IN_WHAT_CLEANS_UP,
    "cleaning after a failure": AFTER_A_FAILURE,
}


@pytest.mark.parametrize("hangs", WAYS.values(), ids=WAYS)
def test_a_test_that_hangs_ends_and_the_next_one_runs(tmp_path, hangs):
    (tmp_path / "conftest.py").write_text(QUICK)
    (tmp_path / "test_it.py").write_text(f"{hangs}\ndef test_next(): pass\n")
    options = ("-p", "harness.timeouts", "-p", "no:asyncio", "--timeout", "0.5", "-q")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 passed" in run.stdout
