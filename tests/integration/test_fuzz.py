"""Raw requests and mutated lines, some of those that `./run prove api lines` sends."""

from __future__ import annotations

import pytest
from fuzz import lines, raw
from fuzz.stage import stage

SEED = 13


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with stage(tmp_path_factory.mktemp("fuzz")) as fleet:
        yield fleet
        assert fleet.tracebacks() == []


def test_raw_requests_are_refused_or_served_and_leave_nothing_behind(fleet):
    findings = raw.fuzz(fleet, 300, SEED)
    assert findings.failures == []
    statuses = {int(status) for status in findings.statuses()}
    assert {200, 202, 400, 403, 404, 405, 408, 413, 431} <= statuses, "each had its requests"


def test_each_mutated_line_is_named_or_ends_once(fleet):
    findings = lines.fuzz(fleet, 3000, SEED)
    assert findings.failures == []
    assert findings.lines >= 3000
    assert min(findings.ended["refused"], findings.ended["output"]) > 500


def test_a_seed_is_what_is_sent():
    assert raw.requests(7, 50) == raw.requests(7, 50)
    assert list(lines.files(7, 500)) == list(lines.files(7, 500))
    assert raw.requests(7, 50) != raw.requests(8, 50)
