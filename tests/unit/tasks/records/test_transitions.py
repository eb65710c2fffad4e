"""A table of transitions, as the documentation shows it."""

from __future__ import annotations

from tasks.records.jobs import Status
from tasks.records.transitions import Transition, diagram, table


def test_a_table_of_transitions_is_drawn_with_an_arrow_for_each_pair():
    rows = [
        Transition(None, Status.QUEUED, "create_jobs", "room"),
        Transition(Status.QUEUED, Status.RUNNING, "begin_jobs", "in time"),
        Transition(Status.QUEUED, Status.RUNNING, "begin_jobs", "again"),
        Transition(Status.QUEUED, Status.RUNNING, "sweep", "late"),
        Transition(Status.QUEUED, None, "discard_jobs", "untold"),
    ]
    assert diagram(rows).splitlines() == [
        "stateDiagram-v2",
        "    [*] --> queued: create_jobs",
        "    queued --> running: begin_jobs, sweep",
        "    queued --> [*]: discard_jobs",
    ]
    assert table(rows).splitlines()[2:] == [
        "| - | queued | `create_jobs` | room |",
        "| queued | running | `begin_jobs` | in time |",
        "| queued | running | `begin_jobs` | again |",
        "| queued | running | `sweep` | late |",
        "| queued | - | `discard_jobs` | untold |",
    ]
