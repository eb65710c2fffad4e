"""What breaks a line for some readers is written as JSON's escapes."""

from __future__ import annotations

import json

import pytest

from tasks.jsonl.one_line import one_line


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\u0085", "é", "日", "a"])
def test_it_is_one_line_and_says_the_same(letter):
    text = f"one{letter}two{letter}"
    line = one_line(json.dumps(text, ensure_ascii=False).encode())
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == text
