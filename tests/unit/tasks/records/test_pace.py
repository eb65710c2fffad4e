"""How fast a batch's lines are answered."""

from __future__ import annotations

import pytest

from tasks.records.pace import Bucket, LinesAt, Slot, eta_seconds, history, lines_per_second


@pytest.mark.parametrize(
    ("slots", "began", "now", "rate"),
    [
        ([], 0, 1000, 0),
        ([Slot(200, 60)], 0, 1002, 60 / 32),
        ([Slot(200, 60), Slot(194, 4), Slot(193, 99)], 0, 1002, 64 / 32),  # 193 is too long ago
        ([Slot(200, 60)], 990, 1000, 6),
        ([Slot(200, 60)], 999.9, 1000, 60),  # it has just begun
    ],
)
def test_the_rate_is_that_of_the_last_half_minute(slots, began, now, rate):
    assert lines_per_second(slots, began, now) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("left", "rate", "seconds"), [(10, 2.0, 5.0), (10, 0.0, None), (0, 0.0, 0.0), (0, 2.0, 0.0)]
)
def test_nobody_knows_when_what_stands_still_ends(left, rate, seconds):
    assert eta_seconds(left, rate) == seconds


def test_a_short_batch_has_a_bucket_a_second():
    times = [LinesAt.parse("100:32"), LinesAt(102, 8), LinesAt(102, 1)]
    assert history(times, 100, 102) == [Bucket(100, 1, 32), Bucket(101, 1, 0), Bucket(102, 1, 9)]


@pytest.mark.parametrize("span", [0, 1, 119, 120, 121, 86_400, 7 * 86_400])
def test_a_history_has_at_most_120_buckets_and_loses_no_line(span):
    times = [LinesAt(at, 3) for at in (1000, 1000 + span // 2, 1000 + span)]
    buckets = history(times, 1000, 1000 + span)
    assert len(buckets) <= 120
    assert sum(bucket.lines for bucket in buckets) == 9
    assert buckets[-1].at <= 1000 + span < buckets[-1].at + buckets[-1].seconds


def test_a_clock_that_was_set_back_loses_no_line_either():
    assert history([LinesAt(90, 1), LinesAt(110, 2)], 100, 99) == [Bucket(100, 1, 3)]
