"""What a running `fallthrough up` tells the other commands, in a file of its data folder.

No setting is in it, for some are secrets: those are read where the parts have them, in the
environment of their processes, which Linux shows to their owner alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.settings import PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

LOCK, FILE = "lock", "stack.json"


class RunningPart(NamedTuple):
    """A process of the stack. pid: None while it does not run. log: its file."""

    part: str
    url: str
    pid: int | None
    log: str


class Running(NamedTuple):
    """A stack that runs. No parts: it is just starting, or stopping."""

    data: Path
    api_url: str = ""
    parts: tuple[RunningPart, ...] = ()

    def settings(self) -> dict[str, str]:
        """Return the settings that its parts work with; none where this system does not tell."""
        for part in self.parts:
            with contextlib.suppress(OSError):
                if told := _settings_of(part.pid):
                    return told
        return {}


def _settings_of(pid: int | None) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape")
    pairs = (line.partition("=") for line in text.split("\0"))
    told = {name: value for name, _, value in pairs if name.startswith(PREFIX)}
    return told if f"{PREFIX}REDIS_URL" in told else {}  # what is no part of the pipeline has none


class Announcement:
    """The file in which a stack says what runs; written again only when that has changed."""

    def __init__(self, data: Path) -> None:
        self._path = data / FILE
        self._told = ""

    def tell(self, api_url: str, parts: Sequence[RunningPart]) -> None:
        """Say what runs now; on a full disk, as soon as there is room."""
        text = json.dumps({"api_url": api_url, "parts": [part._asdict() for part in parts]})
        if text == self._told:
            return
        with contextlib.suppress(OSError):
            place = self._path.with_suffix(".new")
            place.write_text(text)
            place.replace(self._path)
            self._told = text

    def withdraw(self) -> None:
        """Say that nothing runs."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def running_in(data: Path) -> Running | None:
    """Return the stack that runs in a data folder; None: none does."""
    if not _is_locked(data / LOCK):
        return None
    try:
        told: dict[str, Any] = json.loads((data / FILE).read_text())
        parts = tuple(RunningPart(**part) for part in told["parts"])
        return Running(data, told["api_url"], parts)
    except (OSError, ValueError, TypeError, KeyError):  # not written yet
        return Running(data)


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, ValueError):  # nobody ever started one here, or it is no path
        return False
    return False
