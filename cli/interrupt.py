"""Ctrl-C while a command waits: a last word, and out."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTED = 130  # exit status, as shells have it


def leave_on_interrupt(last_words: Callable[[], None]) -> None:
    """On Ctrl-C call last_words, and go at once: the long polls under way are no loss."""

    def leave(*_: object) -> None:
        last_words()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, leave)
