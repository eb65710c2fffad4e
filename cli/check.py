"""What a worker would find if it asked its tiers, the store and the broker: asked by a process.

The command line knows no tier and no store: `workers.check` asks, as a worker would.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Self

from cli.terminal import aligned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

COMMAND = (sys.executable, "-P", "-m", "workers.check")
COLUMNS = ("part", "check", "state", "detail")
OK, FAILED = "ok", "failed"

Row = dict[str, str]  # part, check, state, detail, advice, as workers.check prints them


class CheckFailedError(Exception):
    """Nothing could be asked; the message says why."""


class Check:
    """A check under way; leave its context and it is over."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Begin it, with the settings of this environment."""
        tether = (sys.executable, "-P", "-m", "cli.stack.tether", str(os.getpid()))
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            (*tether, *COMMAND),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C is ours alone
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def rows(self) -> list[Row]:
        """Wait for what was found; raises CheckFailedError."""
        told, complaint = self._process.communicate()
        try:
            rows: list[Row] = json.loads(told)
        except ValueError:
            reason = complaint.strip().splitlines()[-1:] or [f"status {self._process.returncode}"]
            raise CheckFailedError(reason[0]) from None
        return rows

    def when_done(self, tell: Callable[[list[Row]], None]) -> None:
        """Have told what was found, by a thread of its own; nothing if it could not be asked."""

        def wait() -> None:
            with contextlib.suppress(CheckFailedError):
                tell(self.rows())

        threading.Thread(target=wait, name="check", daemon=True).start()


def table(rows: Iterable[Row]) -> str:
    """Return rows as aligned text; below each that is not well, what to do."""
    rows = list(rows)
    head, *told = aligned([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])
    indent = " " * head.index(COLUMNS[-1])
    lines = [head]
    for row, line in zip(rows, told, strict=True):
        lines += [line, f"{indent}→ {row['advice']}"] if row["advice"] else [line]
    return "\n".join(lines)
