"""The lines of a batch's output and error files."""

from __future__ import annotations

import json

import pytest
from harness.records import begun_job

from tasks.jsonl.output import UNANSWERED, answered_line, unanswered_line
from tasks.records.jobs import Status
from tasks.records.outcomes import Finish

BREAKS = "a\u2028b\u2029c\x85d\u2027e"  # str.splitlines() breaks at all but the last
JOB = begun_job(id="batch_x-0-0")


def only_line(text):
    (line,) = text.decode().splitlines()
    return json.loads(line)


@pytest.mark.parametrize("white", ["", "\n", "\r", "\r\n  "])
def test_an_answer_is_one_line_for_every_reader(white):
    answer = f'{{{white}"text":{white} "{BREAKS}"}}'.encode()
    done = Finish(status=Status.SUCCEEDED, attempts=(), tier_used="gpu", answer=answer)
    content = answered_line(0, BREAKS, JOB, done).content
    line = only_line(content)
    assert (line["custom_id"], line["response"]["body"]) == (BREAKS, {"text": BREAKS})


@pytest.mark.parametrize("why", UNANSWERED)
def test_a_line_without_an_answer_is_one_line_for_every_reader(why):
    line = only_line(unanswered_line("batch_x", 0, 0, BREAKS, why))
    assert (line["custom_id"], line["response"]) == (BREAKS, None)
    assert line["error"]["code"]
