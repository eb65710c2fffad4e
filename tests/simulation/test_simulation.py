"""The simulation: it holds, it repeats, it finds what is broken, and its store is a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The guards that hold up the promises: what a seed must find when one is gone.
NAMED = {
    "lease check": ("_jobs.lua", "return h[1] == 'running'"),
    "attempt check": ("begin_jobs.lua", "if mine and h[2] == tier then"),
    "first finish wins": ("finish_job.lua", "if false then return 0 end"),
    "written slice": (
        "record_lines.lua",
        "if false then return { -1, 0 } end",
    ),
}


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": f"{ROOT}/tests:{ROOT}"}
    return subprocess.run(
        [sys.executable, "-m", "simulation", *arguments],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_hundred_seeds_break_no_promise():
    done = simulate("--seeds", "1-200")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 seeds, 0 failed" in done.stdout


def test_a_seed_is_one_schedule():
    done = simulate("--seeds", "1-15", "--twice")
    assert done.returncode == 0, done.stdout + done.stderr
