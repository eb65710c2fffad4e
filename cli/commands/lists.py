"""`fallthrough jobs`, `files`: what there is on the server."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from cli import environment
from cli.commands.options import as_json, at_url, to_file
from cli.output import writing
from cli.terminal import aligned, echo

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = click.option("--limit", type=click.IntRange(1), default=20, show_default=True)


@click.group()
def jobs() -> None:
    """List jobs."""


@jobs.command("list")
@LIMIT
@click.option("--status", help="Only these: queued, running, succeeded, failed, …")
@click.option("--tier", help="Only those that this tier answered.")
@click.option("--model", help="Only those that this model answered.")
@at_url
@as_json
def list_jobs(*, limit: int, url: str | None, as_json: bool, **filters: str | None) -> None:
    """List the latest jobs."""
    given = {name: value for name, value in filters.items() if value is not None}
    with environment.client(url) as client:
        latest, more = client.latest("jobs", limit, **given)
    if as_json:
        echo(json.dumps(latest))
        return
    rows: list[tuple[str, ...]] = [("job", "status", "tier", "created")]
    rows += [
        (job["id"], job["status"], job["tier_used"] or "", _time(job["created_at"]))
        for job in latest
    ]
    print_list(rows, more=more)


@click.group()
def files() -> None:
    """List and download files: inputs and results of batches."""


@files.command("list")
@LIMIT
@at_url
@as_json
def list_files(*, limit: int, url: str | None, as_json: bool) -> None:
    """List the latest files."""
    with environment.client(url) as client:
        latest, more = client.latest("files", limit)
    if as_json:
        echo(json.dumps(latest))
        return
    rows: list[tuple[str, ...]] = [("file", "purpose", "bytes", "created", "name")]
    rows += [
        (
            *(file["id"], file["purpose"], str(file["bytes"])),
            *(_time(file["created_at"]), file["filename"]),
        )
        for file in latest
    ]
    print_list(rows, more=more)


@files.command()
@click.argument("file_id")
@to_file
@at_url
def download(file_id: str, *, output: Path | None, url: str | None) -> None:
    """Print file FILE_ID, or write it to a file."""
    with environment.client(url) as client:
        again = client.command("files", "download", file_id)
        with writing(output, f"get it with: {again}") as target:
            client.download(file_id, target)
    if output:
        echo(f"{file_id} is in {output}", err=True)


def print_list(rows: list[tuple[str, ...]], *, more: bool) -> None:
    """Print a list, of which the first row is the head; more: it goes on."""
    echo("\n".join(aligned(rows)))
    if more:
        count = len(rows) - 1
        echo(f"these are the latest {count}; more: --limit {10 * count}", err=True)


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
