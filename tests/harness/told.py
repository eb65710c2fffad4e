"""What followers of streams were told, and what of it must not be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

DONE = b"data: [DONE]"


class Told:
    """What one reader of a stream was told, over one connection after the other."""

    def __init__(self) -> None:
        self.chunks: list[dict[str, Any]] = []
        self.error: dict[str, Any] | None = None
        self.done = False
        self.wrong: list[str] = []
        self._rest = b""

    def begin(self) -> None:
        """Hear a new connection: what the one before left unfinished is nothing."""
        self._rest, self.error = b"", None

    def hear(self, piece: bytes) -> None:
        """Take a piece of a body."""
        *events, self._rest = (self._rest + piece).split(b"\n\n")
        for event in events:
            if self.done or self.error:
                self.wrong.append(f"something comes after the end: {event!r}")
            elif event == DONE:
                self.done = True
            elif event.startswith(b"data: "):
                self._take(json.loads(event[6:]))
            elif not event.startswith(b": "):
                self.wrong.append(f"this is no event: {event!r}")

    def _take(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            self.error = chunk["error"]
            return
        number = chunk.pop("sequence_number", len(self.chunks))
        if number != len(self.chunks):
            self.wrong.append(f"chunk {number} comes after {len(self.chunks)} others")
        self.chunks.append(chunk)

    @property
    def text(self) -> str:
        """All that was said."""
        return "".join(
            choice["delta"].get("content") or ""
            for chunk in self.chunks
            for choice in chunk["choices"]
        )

    @property
    def finished(self) -> bool:
        """Whether a reason to finish was told."""
        return any(choice["finish_reason"] for chunk in self.chunks for choice in chunk["choices"])

    def faults(self, answers: Iterable[str]) -> list[str]:
        """Return what must not be. answers: one of which it is, or the beginning of one."""
        faults = list(self.wrong)
        if self.done and not self.finished:
            faults.append("it is done without a reason to finish")
        if self.finished and not self.done and self.error:
            faults.append("it has a reason to finish, and an error")
        begins = [answer for answer in answers if answer.startswith(self.text)]
        if not begins or (self.done and self.text not in begins):
            faults.append(f"it said {self.text!r}")
        return faults
