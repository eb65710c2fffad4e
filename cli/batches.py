"""Batches that the command line creates, follows, and fetches the results of."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from cli.client import ApiAwayError
from cli.input_file import input_file
from cli.interrupt import leave_on_interrupt
from cli.terminal import echo, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.client import Client

POLL_INTERVAL_SECONDS = 0.5
AWAY_SECONDS = 90.0  # that an API which is away is asked again
FINAL = frozenset({"completed", "failed", "expired", "cancelled"})
ERRORS_SHOWN = 10  # a screenful
PACE_SECONDS = 10.0  # over which lines a second are measured while a batch runs


def create_batch(client: Client, source: Path, window: str, metadata: dict[str, str]) -> str:
    """Upload a file and create its batch; return its id."""
    with tempfile.TemporaryDirectory(prefix="fallthrough-") as folder:
        path, endpoint = input_file(source, Path(folder))
        file = client.upload(path)
    return str(client.create_batch(file["id"], endpoint, window, **metadata)["id"])


def follow(
    client: Client, batch_id: str, say_how_to_come_back: Callable[[], None]
) -> dict[str, Any]:
    """Show a batch's progress until it has ended; return it. Ctrl-C leaves it running."""
    display = _Display()
    # Before the cursor is hidden: from then on whoever interrupts gets it back.
    leave_on_interrupt(say_how_to_come_back)
    with display.progress:
        while True:
            try:
                batch = _fetch(client, batch_id, display.progress.console)
            except ApiAwayError:
                display.progress.stop()
                say_how_to_come_back()
                raise
            display.show(batch)
            if batch["status"] in FINAL:
                return batch
            time.sleep(POLL_INTERVAL_SECONDS)


class Pace:
    """How fast lines were answered within the last PACE_SECONDS."""

    def __init__(self) -> None:
        self._counted: deque[tuple[float, int]] = deque()

    def rate(self, now: float, lines: int) -> float:
        """Return lines a second. now: seconds of any clock; lines: all that are answered by now."""
        self._counted.append((now, lines))
        while now - self._counted[0][0] > PACE_SECONDS:
            self._counted.popleft()
        since, before = self._counted[0]
        return (lines - before) / max(now - since, 0.001)


class _Display:
    """A batch's progress on standard error: a bar, lines a second, lines by tier."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.fields[status]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[tiers]}"),
        )
        self.progress = Progress(
            *columns, console=Console(stderr=True), speed_estimate_period=PACE_SECONDS
        )
        self._bar = self.progress.add_task("", total=None, status="validating", rate="", tiers="")
        self._start = time.monotonic()
        self._lines_at_start: int | None = None
        self._pace = Pace()

    def show(self, batch: dict[str, Any]) -> None:
        counts = batch["request_counts"]
        lines = counts["completed"] + counts["failed"]
        self.progress.update(
            self._bar,
            total=counts["total"] or None,
            completed=lines,
            status=batch["status"],
            rate=f"{self._rate(batch['status'], lines):,.0f}/s",
            tiers=_summary(batch),
        )

    def _rate(self, status: str, lines: int) -> float:
        """Return lines a second: of late; once it has ended, since this command followed it."""
        now = time.monotonic()
        of_late = self._pace.rate(now, lines)
        if self._lines_at_start is None:
            self._lines_at_start = lines
        average = (lines - self._lines_at_start) / max(now - self._start, 0.001)
        return average if status in FINAL else of_late


def _models(batch: dict[str, Any]) -> str:
    """Return which models answered how many lines, those that answered most first; "" for none."""
    by_tier = batch.get("fallthrough", {}).get("models", {})
    lines = {
        f"{tier} {model}": number
        for tier, models in by_tier.items()
        for model, number in models.items()
    }
    most_first = sorted(lines.items(), key=lambda each: -each[1])
    return ", ".join(f"{number} by {name}" for name, number in most_first)


def _summary(batch: dict[str, Any]) -> str:
    tiers = batch.get("fallthrough", {}).get("tiers", {})
    summary = "  ".join(f"{tier} {number}" for tier, number in sorted(tiers.items()) if tier != "-")
    failed = batch["request_counts"]["failed"]
    return summary + (f"  failed {failed}" if failed else "")


def _fetch(client: Client, batch_id: str, console: Console) -> dict[str, Any]:
    """Return the batch. An API that is away, as while it restarts, is asked again for a while."""
    deadline = None
    while True:
        try:
            return client.batch(batch_id)
        except ApiAwayError as error:
            if deadline is None:
                deadline = time.monotonic() + AWAY_SECONDS
                console.print(
                    f"{shown(str(error))}\n… the batch goes on; trying again", markup=False
                )
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_INTERVAL_SECONDS)


def finish(client: Client, batch: dict[str, Any], output: Path | None) -> int:
    """Download the results, and say how it ended; return the exit status."""
    _print_errors((batch.get("errors") or {}).get("data", []))
    files = [batch[name] for name in ("output_file_id", "error_file_id") if batch[name]]
    if output and files:  # a batch that was never run leaves what was there before
        with output.open("wb") as target:
            for file_id in files:
                client.download(file_id, target)
    counts = batch["request_counts"]
    echo(
        f"{batch['id']} {batch['status']}: {counts['completed']} answered, "
        f"{counts['failed']} failed, of {counts['total']}"
        + (f"; results in {output}" if output and files else ""),
        err=True,
    )
    if models := _models(batch):
        echo(f"answered: {models}", err=True)
    return 0 if batch["status"] == "completed" and not counts["failed"] else 1


def _print_errors(errors: list[dict[str, Any]]) -> None:
    for error in errors[:ERRORS_SHOWN]:
        where = f"line {error['line']}: " if error.get("line") else ""
        echo(f"{where}{error['message']} ({error['code']})", err=True)
    if len(errors) > ERRORS_SHOWN:
        echo(f"… and {len(errors) - ERRORS_SHOWN} more", err=True)
