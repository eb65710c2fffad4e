"""The lines of a batch's output and error files."""

from __future__ import annotations

import json

import pytest

from tasks.jsonl.output import UNANSWERED, answered_line, unanswered_line
from tasks.records.jobs import BegunJob, Options, Queue, Status
from tasks.records.outcomes import Finish

BREAKS = "a\u2028b\u2029c\x85d\u2027e"  # str.splitlines() breaks at all but the last
JOB = BegunJob(
    *("batch_x-0-0", 0, "me", "gpu", {}, "owner", Queue.BATCH, 0.0, Options(), (), 0, "gpu")
)


def only_line(text):
    (line,) = text.decode().splitlines()
    return json.loads(line)


@pytest.mark.parametrize("white", ["", "\n", "\r", "\r\n  "])
def test_an_answer_is_one_line_for_every_reader(white):
    answer = f'{{{white}"text":{white} "{BREAKS}"}}'.encode()
    fields = {"answer": answer, "attempts": b"[]", "tier_used": "gpu"}
    content = answered_line(0, BREAKS, JOB, Finish(Status.SUCCEEDED, fields)).content
    line = only_line(content)
    assert (line["custom_id"], line["response"]["body"]) == (BREAKS, {"text": BREAKS})


@pytest.mark.parametrize("why", UNANSWERED)
def test_a_line_without_an_answer_is_one_line_for_every_reader(why):
    line = only_line(unanswered_line("batch_x", 0, 0, BREAKS, why))
    assert (line["custom_id"], line["response"]) == (BREAKS, None)
    assert line["error"]["code"]
