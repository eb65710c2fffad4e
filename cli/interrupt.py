"""Ctrl-C while a command waits: a last word, and out."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTED = 130  # exit status, as shells have it
SHOW_CURSOR = b"\x1b[?25h"


def leave_on_interrupt(last_words: Callable[[], None]) -> None:
    """On Ctrl-C call last_words, and go at once: the long polls under way are no loss."""

    def leave(*_: object) -> None:
        # Past rich, which hides it, and may have been interrupted in the midst of anything.
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), SHOW_CURSOR + b"\r\n")
        last_words()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, leave)
