"""Ctrl-C while a command waits: a last word, and out."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from cli.terminal import is_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INTERRUPTED = 130  # exit status, as shells have it
SHOW_CURSOR = b"\x1b[?25h"


@contextlib.contextmanager
def interrupt_held() -> Iterator[None]:
    """Have Ctrl-C wait for the end of what is inside: of a call whose answer must be known.

    A second one does not wait: it raises KeyboardInterrupt.
    """
    before = signal.getsignal(signal.SIGINT)
    pressed = False

    def hold(*_: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if not callable(before):  # a shell has it ignored
        yield
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        before(signal.SIGINT, None)


def leave_on_interrupt(last_words: Callable[[], None]) -> None:
    """On Ctrl-C call last_words, and go at once: the long polls under way are no loss."""

    def leave(*_: object) -> None:
        # Past rich, which hides it, and may have been interrupted in the midst of anything.
        if is_terminal(sys.stderr):
            os.write(sys.stderr.fileno(), SHOW_CURSOR + b"\r\n")
        try:
            last_words()
        finally:  # though they cannot be written
            os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, leave)


def undo_on_interrupt() -> None:
    """On Ctrl-C raise KeyboardInterrupt again: what is half done is undone on the way out."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
