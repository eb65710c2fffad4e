"""A command at a terminal of its own, as a person sees it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import threading
from typing import TYPE_CHECKING

from harness.commands import FALLTHROUGH, environ

if TYPE_CHECKING:
    from collections.abc import Iterator


# A line's end (a terminal makes CR LF of it), an escape sequence by number and end, or a letter.
CONTROL = re.compile(r"(\r\n|\n|\r|[^\x1b])|\x1b\[\??([0-9;]*)([A-Za-z])")


class Terminal:
    """What `fallthrough` shows there. process: the command; its standard input is empty."""

    def __init__(self, *arguments: str, **settings: str) -> None:
        self._main, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [*FALLTHROUGH, *arguments],
            env=environ(TERM="xterm", **settings),
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        self._told: list[bytes] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # a terminal that nobody holds any more
            while part := os.read(self._main, 65536):
                self._told.append(part)

    @property
    def said(self) -> str:
        """All that was written to it so far, by both of the command's outputs."""
        if self.process.poll() is not None:
            self._thread.join(10)
        return b"".join(self._told).decode()

    @property
    def lines(self) -> list[str]:
        """What can be read on it, line by line, without empty ones."""
        rows, at = [""], 0
        for letter, number, command in CONTROL.findall(self.said):
            if letter.endswith("\n"):
                at += 1
                rows += [""] * (at == len(rows))
            elif command == "A":  # the cursor goes up
                at = max(at - int(number or 1), 0)
            elif command == "K":  # the line is wiped out
                rows[at] = ""
            elif letter != "\r":
                rows[at] += letter
        return [row for row in rows if row]

    def close(self) -> None:
        """End the command."""
        self.process.kill()
        self.process.wait()
        self._thread.join(10)
        os.close(self._main)


@contextlib.contextmanager
def terminal(*arguments: str, **settings: str) -> Iterator[Terminal]:
    """Run a command at a terminal for as long as it is looked at."""
    shown = Terminal(*arguments, **settings)
    try:
        yield shown
    finally:
        shown.close()
