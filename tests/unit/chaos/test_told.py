"""What a reader of a stream was told is judged by its one answer."""

from __future__ import annotations

import json

import pytest
from harness.told import Told

ANSWER = "gpu: one two"
DONE = b"data: [DONE]\n\n"
BROKEN = b'data: {"error": {"code": "upstream_interrupted"}}\n\n'


def chunk(number, text, reason=None):
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]
    told = {"sequence_number": number, "choices": choices}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


WORDS = chunk(0, "gpu:") + chunk(1, " one")
WHOLE = WORDS + chunk(2, " two") + chunk(3, "", "stop") + DONE


def told(*connections):
    reader = Told()
    for body in connections:
        reader.begin()
        for at in range(len(body)):
            reader.hear(body[at : at + 1])
    return reader


@pytest.mark.parametrize(
    "connections",
    [
        (WHOLE,),
        (b": queued 3\n\n" + WHOLE,),
        (WORDS + BROKEN,),
        (BROKEN,),
        (WORDS + b'data: {"sequence_num', WHOLE[len(WORDS) :]),
    ],
)
def test_what_may_be(connections):
    assert told(*connections).faults([ANSWER]) == []


@pytest.mark.parametrize(
    ("connections", "fault"),
    [
        ((WORDS + DONE,), "done without a reason"),
        ((WHOLE.removesuffix(DONE) + BROKEN,), "a reason to finish, and an error"),
        ((WORDS + chunk(3, " two"),), "chunk 3 comes after 2 others"),
        ((WORDS, chunk(1, " one")), "chunk 1 comes after 2 others"),
        ((WHOLE + chunk(4, "!"),), "something comes after the end"),
        ((WORDS + chunk(2, " three"),), "it said 'gpu: one three'"),
        ((WORDS + chunk(2, "", "stop") + DONE,), "it said 'gpu: one'"),
        ((b"id: 1\n\n" + WHOLE,), "this is no event"),
    ],
)
def test_what_must_not_be(connections, fault):
    assert any(fault in each for each in told(*connections).faults([ANSWER]))
