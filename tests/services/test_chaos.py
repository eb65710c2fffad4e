"""A short run of `./run chaos`: one fault of every kind, under load."""

from __future__ import annotations

import pytest
from chaos.plan import Plan
from chaos.report import table
from chaos.run import perform

KINDS = [
    *("kill -9 worker", "SIGTERM worker", "SIGSTOP worker", "kill -9 api", "kill -9 store"),
    *("RST worker-store", "FIN api-broker", "refused worker-broker", "delay worker-store"),
    *("frozen api-store", "silent loss worker-store", "CLIENT KILL store", "node killed"),
    *("disk full files", "disk full store", "slow fsync store", "OOM store", "READONLY store"),
    *("clock set forward store", "clock set back store"),
]


@pytest.mark.timeout(240)
async def test_nothing_is_lost_seen_twice_or_waited_for_too_long_whatever_fails(tmp_path):
    plan = Plan(seed=1, broker="valkey", seconds=150, names=KINDS, most=len(KINDS))
    result = await perform(plan, tmp_path)
    assert not result.problems, "\n".join([table([result]), *result.problems])
    assert len(result.faults) >= len(KINDS)
    assert result.jobs > 100
    assert result.lines > 100
