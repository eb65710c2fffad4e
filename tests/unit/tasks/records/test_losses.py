"""Which attempts make a job poison, a suspect, or too much for its tier."""

from __future__ import annotations

import pytest

from fallback_chain import Attempt, Verdict
from tasks.records.losses import ALONE, broke_off, is_poison, is_suspect, leaves_tier, lost

GPU, CPU, CACHE = lost("gpu"), lost("cpu"), lost("cache")
GPU_ALONE, CPU_ALONE = lost("gpu", ALONE), lost("cpu", ALONE)
BROKE = broke_off("gpu")
FAILED = Attempt("gpu", Verdict.FAILURE, 1.0, "timeout")


@pytest.mark.parametrize(
    ("attempts", "poison", "suspect", "leaves_gpu"),
    [
        ([], False, False, False),
        ([FAILED] * 5, False, False, False),
        ([GPU], False, False, False),
        ([GPU, GPU], False, True, True),
        ([GPU, CPU], False, True, False),
        # Innocent neighbours of one that kills are lost with it, and never called alone then.
        ([GPU, GPU, CPU, CACHE], False, True, True),
        ([GPU, GPU, GPU_ALONE], True, True, True),
        ([GPU, GPU, CPU_ALONE], True, True, True),
        ([GPU_ALONE], False, True, True),
        ([CPU_ALONE], False, True, False),
        ([GPU_ALONE, CPU_ALONE], True, True, True),
        ([BROKE], False, False, False),
        ([BROKE, BROKE], False, False, False),
        ([BROKE, FAILED, BROKE, BROKE], True, False, False),
        ([GPU, GPU, BROKE], True, True, True),
    ],
)
def test_what_attempts_say_of_their_job(attempts, poison, suspect, leaves_gpu):
    assert is_poison(attempts) is poison
    assert is_suspect(attempts) is suspect
    assert leaves_tier(attempts, "gpu") is leaves_gpu
