"""`fallthrough batch`: a whole file of prompts."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from cli import environment
from cli.batches import create_batch, finish, follow
from cli.commands.options import as_json, at_url, check_writable, to_file
from cli.terminal import aligned, echo
from tasks.records.policies import ExhaustedPolicy

if TYPE_CHECKING:
    from cli.client import Client

DEFAULT_POLICY: ExhaustedPolicy = "wait"


class FileFirst(click.Group):
    """A group whose first word may be a file: then its command is "run"."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


@click.group("batch", cls=FileFirst)
def batches() -> None:
    """Send a whole file of prompts, follow it, and get its results.

    \b
    fallthrough batch prompts.jsonl --output results.jsonl
    fallthrough batch attach batch_… --output results.jsonl
    fallthrough batch list
    fallthrough batch cancel batch_…

    A .txt file has one prompt a line. A .jsonl file has lines of OpenAI's batch format, or lines
    with prompt or messages. The results are OpenAI's output lines, then the error lines.
    """  # noqa: D301 - \b is click's


@batches.command()
@click.argument("file", type=click.Path(path_type=Path))
@to_file
@click.option("--window", default="24h", show_default=True, help="When it is given up: 90m, 2d, …")
@click.option("--priority", type=click.Choice(["low", "normal", "high"]))
@click.option(
    "--on-exhausted",  # what a batch does by default stands first
    type=click.Choice(sorted(get_args(ExhaustedPolicy), key=lambda p: p != DEFAULT_POLICY)),
)
@click.option("--tiers", help="Tiers that may answer, as gpu,cpu,cache  [default: the server's].")
@click.option("--detach", is_flag=True, help="Do not wait for it; print its id.")
@at_url
@as_json
def run(  # noqa: PLR0913 - a command's options
    file: Path,
    *,
    output: Path | None,
    window: str,
    priority: str | None,
    on_exhausted: str | None,
    tiers: str | None,
    detach: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Upload FILE, follow its batch, and download the results."""
    if output:
        check_writable(output)
    options = {
        "priority": priority,
        "fallthrough_on_exhausted": on_exhausted,
        "fallthrough_tiers": tiers,
    }
    metadata = {name: value for name, value in options.items() if value is not None}
    with environment.client(url) as client:
        batch_id = create_batch(client, file, window, metadata)
        echo(batch_id, err=not detach)
        if not detach:
            _follow_to_the_end(client, batch_id, output, as_json=as_json)


@batches.command()
@click.argument("batch_id")
@to_file
@at_url
@as_json
def attach(batch_id: str, *, output: Path | None, url: str | None, as_json: bool) -> None:
    """Follow batch BATCH_ID again, and download its results."""
    if output:
        check_writable(output)
    with environment.client(url) as client:
        _follow_to_the_end(client, batch_id, output, as_json=as_json)


def _follow_to_the_end(
    client: Client, batch_id: str, output: Path | None, *, as_json: bool
) -> None:
    def say_how_to_come_back() -> None:
        command = f"fallthrough batch attach {batch_id}" + (f" --output {output}" if output else "")
        echo(f"\nit goes on without you; come back with: {command}", err=True)

    batch = follow(client, batch_id, say_how_to_come_back)
    if as_json:
        echo(json.dumps(batch))
    sys.exit(finish(client, batch, output))


@batches.command("list")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@at_url
@as_json
def list_batches(*, limit: int, url: str | None, as_json: bool) -> None:
    """List the latest batches."""
    with environment.client(url) as client:
        latest = client.batches(limit)
    if as_json:
        echo(json.dumps(latest))
    else:
        echo("\n".join(aligned(_rows(latest))))


def _rows(latest: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("batch", "status", "answered", "failed", "of", "created")]
    for batch in latest:
        counts = batch["request_counts"]
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(batch["created_at"]))
        numbers = (str(counts[name]) for name in ("completed", "failed", "total"))
        rows.append((batch["id"], batch["status"], *numbers, created))
    return rows


@batches.command("cancel")
@click.argument("batch_id")
@at_url
def cancel_batch(batch_id: str, url: str | None) -> None:
    """Cancel batch BATCH_ID; what is finished is kept."""
    with environment.client(url) as client:
        echo(f"{batch_id} {client.cancel_batch(batch_id)['status']}")
