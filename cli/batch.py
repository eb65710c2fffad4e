"""`fallthrough batch`: a file of prompts, from its upload to its results."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from cli.client import ApiAwayError
from cli.prompts import BOM, InputError, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.client import Client

CHAT = "/v1/chat/completions"
ENDPOINTS = (CHAT, "/v1/completions")
LOOK_SECONDS = 0.5
AWAY_SECONDS = 90.0  # that an API which is away is asked again
FINAL = frozenset({"completed", "failed", "expired", "cancelled"})
INTERRUPTED = 130
SHOW_CURSOR = b"\x1b[?25h"


def submit(client: Client, source: Path, window: str, metadata: dict[str, str]) -> str:
    """Upload a file and create its batch; return its id."""
    with tempfile.TemporaryDirectory(prefix="fallthrough-") as folder:
        ready, endpoint = _as_input(source, Path(folder))
        file = client.upload(ready)
    return str(client.create_batch(file["id"], endpoint, window, **metadata)["id"])


def _as_input(source: Path, folder: Path) -> tuple[Path, str]:
    """Return a file in OpenAI's batch format, and its endpoint: this one, or made from it."""
    if source.suffix not in {".jsonl", ".txt"}:
        message = f"{source}: must be a .jsonl or a .txt file"
        raise InputError(message)
    number, first = _first_line(source)
    if source.suffix == ".jsonl" and isinstance(first, dict) and "body" in first:
        endpoint = first.get("url", CHAT)
        if endpoint not in ENDPOINTS:
            message = f"{source}, line {number}: url must be one of {', '.join(ENDPOINTS)}"
            raise InputError(message)
        return source, endpoint  # the server names what is wrong in the other lines
    target = folder / f"{source.stem}.jsonl"
    with target.open("w", encoding="utf-8") as file:
        for asked in read(str(source)):
            body = dict(asked.request)
            if "prompt" in body:
                body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
            line = {"custom_id": asked.label, "method": "POST", "url": CHAT, "body": body}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return target, CHAT


def _first_line(source: Path) -> tuple[int, Any]:
    """Return the number and the value of the first line that is not blank; None: it is no JSON."""
    try:
        with source.open("rb") as file:
            lines = ((n, line.strip()) for n, line in enumerate(file, 1))
            number, first = next(((n, line) for n, line in lines if line), (0, b""))
    except OSError as error:
        message = f"cannot read {source}: {error.strerror}"
        raise InputError(message) from None
    try:
        return number, json.loads(first.decode().removeprefix(BOM))
    except ValueError:
        return number, None


def follow(client: Client, batch_id: str, come_back: Callable[[], None]) -> dict[str, Any]:
    """Show a batch's progress until it has ended; Ctrl-C leaves it running."""
    columns = (
        TextColumn("{task.fields[status]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[tiers]}"),
    )
    progress = Progress(*columns, console=Console(stderr=True))

    def interrupted(*_: object) -> None:
        # Past rich, which may have been interrupted in the midst of anything.
        if progress.console.is_terminal:
            os.write(sys.stderr.fileno(), SHOW_CURSOR + b"\r\n")
        come_back()
        sys.stderr.flush()
        os._exit(INTERRUPTED)

    # Before the cursor is hidden: from then on whoever interrupts gets it back.
    signal.signal(signal.SIGINT, interrupted)
    with progress:
        bar = progress.add_task("", total=None, status="validating", rate="", tiers="")
        began, before = time.monotonic(), None
        while True:
            try:
                batch = _look(client, batch_id, progress)
            except ApiAwayError:
                progress.stop()
                come_back()
                raise
            counts = batch["request_counts"]
            done = counts["completed"] + counts["failed"]
            before = done if before is None else before
            rate = (done - before) / max(time.monotonic() - began, 0.001)
            _show(progress, bar, batch, rate)
            if batch["status"] in FINAL:
                return batch
            time.sleep(LOOK_SECONDS)


def _look(client: Client, batch_id: str, progress: Progress) -> dict[str, Any]:
    """Return the batch. An API that is away, as while it restarts, is asked again for a while."""
    until = None
    while True:
        try:
            return client.batch(batch_id)
        except ApiAwayError as error:
            if until is None:
                until = time.monotonic() + AWAY_SECONDS
                progress.console.print(f"{error}\n… the batch goes on; trying again", markup=False)
            if time.monotonic() > until:
                raise
            time.sleep(LOOK_SECONDS)


def _show(progress: Progress, bar: TaskID, batch: dict[str, Any], rate: float) -> None:
    counts = batch["request_counts"]
    tiers = batch.get("fallthrough", {}).get("tiers", {})
    told = "  ".join(f"{tier} {number}" for tier, number in sorted(tiers.items()) if tier != "-")
    if counts["failed"]:
        told += f"  failed {counts['failed']}"
    progress.update(
        bar,
        total=counts["total"] or None,
        completed=counts["completed"] + counts["failed"],
        status=batch["status"],
        rate=f"{rate:,.0f}/s",
        tiers=told,
    )


def finish(client: Client, batch: dict[str, Any], output: Path | None) -> int:
    """Download the results, and say how it ended; return the exit status."""
    errors = (batch.get("errors") or {}).get("data", [])
    for error in errors[:10]:
        where = f"line {error['line']}: " if error.get("line") else ""
        click.echo(f"{where}{error['message']} ({error['code']})", err=True)
    if len(errors) > 10:  # noqa: PLR2004 - a screenful
        click.echo(f"… and {len(errors) - 10} more", err=True)
    files = [batch[name] for name in ("output_file_id", "error_file_id") if batch[name]]
    if output and files:  # a batch that was never run leaves what was there before
        with output.open("wb") as target:
            for file_id in files:
                client.download(file_id, target)
    counts = batch["request_counts"]
    click.echo(
        f"{batch['id']} {batch['status']}: {counts['completed']} answered, "
        f"{counts['failed']} failed, of {counts['total']}"
        + (f"; results in {output}" if output and files else ""),
        err=True,
    )
    return 0 if batch["status"] == "completed" and not counts["failed"] else 1


def table(batches: list[dict[str, Any]]) -> Table:
    """Return a list of batches, for people."""
    shown = Table("batch", "status", "answered", "failed", "of", "created")
    for batch in batches:
        counts = batch["request_counts"]
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(batch["created_at"]))
        numbers = (str(counts[name]) for name in ("completed", "failed", "total"))
        shown.add_row(batch["id"], batch["status"], *numbers, created)
    return shown
