"""The stand-in for model servers, as tests are lent it."""

from __future__ import annotations

import pytest
from harness.upstream import Upstream


@pytest.fixture
def upstreams():
    found = {name: Upstream(name) for name in ("gpu-model", "cpu-model")}
    yield found
    for upstream in found.values():
        upstream.close()


def test_a_mode_that_nobody_met_fails_its_test(upstreams):
    gpu, cpu = upstreams["gpu-model"], upstreams["cpu-model"]
    with pytest.raises(AssertionError, match="nobody met gpu-model as 500"), gpu.lent():
        gpu.mode = "500"
    assert gpu.mode == "ok", "and it is lent to the next one as new"
    with gpu.lent(), cpu.lent():
        cpu.mode = "500"
