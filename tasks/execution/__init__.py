"""What a task does with the slice, the unit or the phase that it was given.

jobs: a slice of lone jobs. units: lines of batches, a turn each; unit_run: one unit at one tier,
with its line_reader, its line_recorder, and ending, the decision what becomes of it. phases: a
whole batch.

A job or a line never waits for its slice-mates: what its tier could not answer leaves early
(calls), a few together, on its way to the next tier. Jobs leave as (id, attempt) pairs of a new
chain; lines leave as a unit of their own, split off from theirs. What is still here at the end is
what the task returns to Celery's chain.
"""
