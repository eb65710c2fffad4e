"""What a model says does not steer the terminal of who reads it."""

from __future__ import annotations

import io
import sys

import pytest

from cli.terminal import aligned, echo, shown, speak_any_locale

EVIL = "a\x1b]0;owned\x07b\x9b31mc\rd\x08"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("two\nlines,\ta tab, ü and 猫", "two\nlines,\ta tab, ü and 猫"),
        ("\r\n", "\n"),
        (EVIL, r"a\x1b]0;owned\x07b\x9b31mc\x0dd\x08"),
        ("".join(map(chr, range(0xA0))).replace("\t", "").replace("\n", ""), None),
    ],
)
def test_control_characters_are_seen_and_do_nothing(text, seen):
    if seen is not None:
        assert shown(text) == seen
    assert all(letter in "\n\t" or letter.isprintable() for letter in shown(text))


class Stream(io.StringIO):
    def __init__(self, *, terminal):
        super().__init__()
        self._terminal = terminal

    def isatty(self):
        return self._terminal


@pytest.mark.parametrize("err", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_only_a_terminal_is_spared_it(monkeypatch, terminal, err):
    stream = Stream(terminal=terminal)
    monkeypatch.setattr(sys, "stderr" if err else "stdout", stream)
    echo(EVIL, err=err)
    assert stream.getvalue().rstrip("\n") == (shown(EVIL) if terminal else EVIL)


def test_what_a_locale_cannot_write_breaks_nothing_off(monkeypatch):
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    speak_any_locale()
    echo("starting … ü")
    stream.flush()
    assert written.getvalue() == b"starting ? \xfc\n"


def test_cells_stand_under_one_another_and_none_is_cut():
    long = "batch_" + "0" * 200
    rows = [("batch", "owner", "of"), (long, "猫", "4"), ("b", "ann", "")]
    assert aligned(rows) == [
        f"{'batch':206}  owner  of",
        f"{long}  猫     4",
        f"{'b':206}  ann",
    ]
