"""What a run came to is kept in a line, and shown in a table."""

from __future__ import annotations

from chaos.report import Result, Tally, commit, read, table


def result(**fields):
    usual = {
        "seed": 1,
        "broker": "valkey",
        "commit": "abc1234",
        "began": "2026-01-01T00:00:00Z",
        "minutes": 1.0,
        "faults": {"kill -9 worker": Tally(1, 10, 20, final_seconds=[2.0], probe_seconds=[0.5])},
        "problems": [],
        "jobs": 30,
        "lines": 0,
        "chats": 5,
    }
    return Result(**{**usual, **fields})


def test_runs_are_read_as_they_were_written(tmp_path):
    path, runs = tmp_path / "new" / "chaos.jsonl", [result(), result(seed=2, commit="def5678+")]
    for run in runs:
        run.append_to(path)
    assert read(path) == runs
    assert read(path, {"def5678"}) == runs[1:]


def test_a_table_adds_up_the_runs_of_each_broker():
    second = {"kill -9 worker": Tally(1, 0, 70, 1, final_seconds=[4.0], probe_seconds=[0.7])}
    shown = table([result(), result(seed=2, faults=second), result(broker="rabbitmq")])
    rabbit, valkey = shown.split("On valkey")
    assert "On rabbitmq: 1 faults, 30 jobs" in rabbit
    assert (
        "| kill -9 worker | 1 | 10 | 20 | 0 (< 0.1) | 0 | 0 | 0 | 0.5, 0.5 | 2.0, 2.0 | 0 |"
        in rabbit
    )
    assert "seeds 1, 2" in valkey
    assert "| kill -9 worker | 2 | 10 | 90 | 1 | 0 | 0 | 0 | 0.6, 0.7 | 3.0, 4.0 | 0 |" in valkey
    assert "| **all** | 2 | 10 | 90 | 1 |" in valkey


def test_the_commit_that_runs_has_a_name():
    assert len(commit().rstrip("+")) >= 7
