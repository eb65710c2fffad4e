"""`fallthrough batch`: a whole file of prompts."""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.shell_completion import CompletionItem

from cli import environment
from cli.batches import (
    FINAL,
    create_batches,
    finish,
    follow,
    ids_of,
    merged,
    pace_of,
    print_errors,
    to_be_retried,
)
from cli.client import ApiFailedError
from cli.commands.lists import LIMIT, print_list
from cli.commands.options import (
    as_json,
    at_url,
    check_apart,
    check_writable,
    files_here,
    shape_of,
    shaped,
    to_file,
)
from cli.interrupt import interrupt_held, leave_on_interrupt, undo_on_interrupt
from cli.output import free_name, writing
from cli.patience import Patience
from cli.rows import is_file
from cli.terminal import aligned, echo, echo_error, echo_once
from tasks.jsonl.one_line import one_line
from tasks.records.policies import CachePolicy, ExhaustedPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cli.client import Client
    from cli.input_file import InputFile

DEFAULT_POLICY: ExhaustedPolicy = "wait"
LONGEST_STEM = 220  # bytes of a file's name, so that there is room for what is put behind it


class FileFirst(click.Group):
    """A group whose first word may be a file: then its command is "run"."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command."""
        word = args[0] if args else ""
        if word not in self.commands and is_file(word):
            args = ["run", *args]
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command, or else a file."""
        # A shell forgets what it was told before it is told to look for files.
        return [CompletionItem(incomplete, type="file"), *super().shell_complete(ctx, incomplete)]


@click.group("batch", cls=FileFirst)
def batches() -> None:
    """Send a whole file of prompts, follow it, and get its results.

    \b
    fallthrough batch prompts.jsonl --output results.jsonl
    fallthrough batch table.csv --prompt "Sum up: {text}"
    fallthrough batch attach batch_…      follow it again, and download
    fallthrough batch results batch_…     what is finished by now
    fallthrough batch retry batch_…       ask again what had no answer

    A .txt file has one prompt a line. A .jsonl or .json file has lines of OpenAI's batch format, or
    objects with prompt or messages; of others, and of a .csv file, --column or --prompt says
    what the prompt is. - is standard input. The results are OpenAI's output lines, then the error
    lines; without --output they are written beside the input.

    A file of more than 50,000 lines becomes several batches that count as one: all commands take
    the id of their group, group_…, or several ids. The exit status is 0 if every prompt was
    answered by a model or a cache, 1 if some were not, 2 if it could not be tried.
    """  # noqa: D301 - \b is click's


@batches.command()
@click.argument("file", shell_complete=files_here)
@to_file
@shaped
@click.option("--window", default="24h", show_default=True, help="When it is given up: 90m, 2d, …")
@click.option("--priority", type=click.Choice(["low", "normal", "high"]))
@click.option("--cache", type=click.Choice(get_args(CachePolicy)), help="[default: off]")
@click.option(
    "--on-exhausted",  # what a batch does by default stands first
    type=click.Choice(sorted(get_args(ExhaustedPolicy), key=lambda p: p != DEFAULT_POLICY)),
)
@click.option("--tiers", help="Tiers that may answer, as gpu,cpu,cache  [default: the server's].")
@click.option("--detach", is_flag=True, help="Do not wait for it; print its id.")
@at_url
@as_json
def run(  # noqa: PLR0913 - a command's options
    file: str,
    *,
    output: Path | None,
    window: str,
    detach: bool,
    url: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Upload FILE, follow its batch, and download the results."""
    shape = shape_of(options)
    names = ("cache", "on_exhausted", "tiers")
    given = {f"fallthrough_{name}": options[name] for name in names}
    given["priority"] = options["priority"]
    metadata = {name: value for name, value in given.items() if value is not None}
    if not detach:
        if output:
            check_apart(file, output)
        check_writable(output or _beside(file, "batch"))
    with environment.client(url) as client:
        created = create_batches(client, file, window, metadata, shape)
        ids, name = list(created.files), created.name
        leave_on_interrupt(lambda: _say_how_to_come_back(client, ids))
        if detach:
            line = json.dumps({"id": name, "batches": ids}) if as_json else name
            echo_once(line, _how_to_come_back(client, ids))
            _say_who_writes(client, ids, output)
            return
        echo(name, err=True)
        output = output or _beside(file, name)
        _follow_to_the_end(client, created.files, output, as_json=as_json)


def _beside(file: str, name: str) -> Path:
    """Return where results go that nobody named a file for: beside the input, if they can."""
    path = Path(file)
    folder = path.parent if file != "-" and os.access(path.parent, os.W_OK) else Path()
    stem = path.stem if file != "-" else name.replace(" ", "-")
    if len(os.fsencode(stem)) > LONGEST_STEM:
        stem = stem[: LONGEST_STEM // 4]  # bytes that one letter may take
    return free_name(folder / f"{stem}-results.jsonl")


def _own_file(ids: Sequence[str]) -> Path:
    return free_name(Path(f"{ids[0][:50].replace('/', '_')}-results.jsonl"))


@batches.command()
@click.argument("batch_ids", metavar="BATCH_ID…", nargs=-1, required=True)
@to_file
@at_url
@as_json
def attach(
    batch_ids: tuple[str, ...], *, output: Path | None, url: str | None, as_json: bool
) -> None:
    """Follow batch BATCH_ID again, and download its results."""
    output = output or _own_file(batch_ids)
    check_writable(output)
    with environment.client(url) as client:
        ids = ids_of(client, batch_ids)
        _follow_to_the_end(client, dict.fromkeys(ids), output, as_json=as_json)


def _how_to_come_back(client: Client, ids: Sequence[str], *options: str) -> str:
    command = client.command("batch", "attach", *ids, *options)
    return f"it goes on without you; come back with: {command}"


def _say_how_to_come_back(client: Client, ids: Sequence[str], *options: str) -> None:
    echo(f"\n{_how_to_come_back(client, ids, *options)}" if ids else "interrupted", err=True)


def _say_who_writes(client: Client, ids: Sequence[str], output: Path | None) -> None:
    """Say how results get into a file that was named, where nobody waits for them."""
    if output:
        writes = client.command("batch", "attach", *ids, "--output", str(output))
        echo(f"with --detach nothing is written to {output}; this writes it: {writes}", err=True)


def _follow_to_the_end(
    client: Client, files: Mapping[str, InputFile | None], output: Path, *, as_json: bool
) -> None:
    """Follow batches, download their results, and exit. files: as `finish` has them."""
    ids, options = list(files), ("--output", str(output))
    ended = follow(client, ids, lambda: _say_how_to_come_back(client, ids, *options))
    undo_on_interrupt()
    try:
        status = finish(client, ended, output, files)
    except (ApiFailedError, KeyboardInterrupt):
        back = client.command("batch", "attach", *ids, *options)
        echo(f"it has ended; get its results with: {back}", err=True)
        raise
    if as_json:
        echo(json.dumps(merged(ended)))
    sys.exit(status)


@batches.command()
@click.argument("batch_ids", metavar="BATCH_ID…", nargs=-1, required=True)
@to_file
@click.option("--detach", is_flag=True, help="Do not wait for it; print its id.")
@at_url
@as_json
def retry(
    batch_ids: tuple[str, ...],
    *,
    output: Path | None,
    detach: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Ask the lines of batch BATCH_ID that had no answer again, as a new batch."""
    named, output = output, output or _own_file(batch_ids)
    if not detach:
        check_writable(output)
    with environment.client(url) as client:
        ids: list[str] = []
        leave_on_interrupt(lambda: _say_how_to_come_back(client, ids))
        patience = Patience(echo_error, "no line is asked twice")
        for batch in to_be_retried([client.batch(each) for each in ids_of(client, batch_ids)]):
            patience.once(partial(_retry, client, batch["id"], ids))
            if not detach:
                echo(ids[-1], err=True)
            elif not as_json:
                echo_once(ids[-1], _how_to_come_back(client, ids))
        if not detach:
            _follow_to_the_end(client, dict.fromkeys(ids), output, as_json=as_json)
            return
        if as_json:
            line = json.dumps({"id": " ".join(ids), "batches": ids})
            echo_once(line, _how_to_come_back(client, ids))
        _say_who_writes(client, ids, named)


def _retry(client: Client, batch_id: str, ids: list[str], key: str) -> None:
    """Ask a batch's unanswered lines again; ids: the new batch's is noted, whoever interrupts."""
    with interrupt_held():
        ids.append(client.retry_batch(batch_id, key)["id"])


@batches.command("status")
@click.argument("batch_ids", metavar="BATCH_ID…", nargs=-1, required=True)
@at_url
@as_json
def show(batch_ids: tuple[str, ...], *, url: str | None, as_json: bool) -> None:
    """Show how far batch BATCH_ID is."""
    with environment.client(url) as client:
        every = [client.batch(each) for each in ids_of(client, batch_ids)]
        if as_json:
            echo(json.dumps(merged(every)))
            return
        echo("\n".join(aligned(_rows(every))))
        for batch in every:
            tiers = (batch.get("fallthrough") or {}).get("tiers") or {}
            lines = [f"{number} by {tier}" for tier, number in tiers.items() if tier != "-"]
            if told := ", ".join([*lines, *filter(None, [pace_of(batch)])]):
                echo(f"{batch['id']}: {told}")
        print_errors(client, every, {})


@batches.command()
@click.argument("batch_ids", metavar="BATCH_ID…", nargs=-1, required=True)
@to_file
@at_url
@as_json
def results(
    batch_ids: tuple[str, ...],
    *,
    output: Path | None,
    url: str | None,
    as_json: bool,  # noqa: ARG001 - the results are JSON as they are
) -> None:
    """Print the lines of batch BATCH_ID that are finished by now, or write them to a file."""
    with environment.client(url) as client:
        ids = ids_of(client, batch_ids)
        every = [client.batch(each) for each in ids]
        again = client.command("batch", "results", *ids)
        written = 0
        with writing(output, f"get them with: {again}") as file:
            for batch_id in ids:
                for line in client.results(batch_id):
                    file.write(one_line(json.dumps(line, ensure_ascii=False).encode()) + b"\n")
                    written += 1
    whole = merged(every)
    counts = whole["request_counts"]
    finished = counts["completed"] + counts["failed"]
    where = f"in {output}" if output else "here"
    told = f"; they are {where}" if output else ""
    if written < finished:
        later = ", the others come with the rest of their slices"
        told = f"; {written} of them are {where}{'' if whole['status'] in FINAL else later}"
    echo(f"{whole['status']}: {finished} of {counts['total']} are finished{told}", err=True)


@batches.command("list")
@LIMIT
@at_url
@as_json
def list_batches(*, limit: int, url: str | None, as_json: bool) -> None:
    """List the latest batches."""
    with environment.client(url) as client:
        latest, more = client.latest("batches", limit)
    if as_json:
        echo(json.dumps(latest))
    else:
        print_list(_rows(latest), more=more)


def _rows(latest: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("batch", "status", "answered", "failed", "of", "created")]
    for batch in latest:
        counts = batch["request_counts"]
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(batch["created_at"]))
        numbers = (str(counts[name]) for name in ("completed", "failed", "total"))
        rows.append((batch["id"], batch["status"], *numbers, created))
    return rows


@batches.command("cancel")
@click.argument("batch_ids", metavar="BATCH_ID…", nargs=-1, required=True)
@at_url
@as_json
def cancel_batch(batch_ids: tuple[str, ...], url: str | None, *, as_json: bool) -> None:
    """Cancel batch BATCH_ID; what is finished is kept."""
    with environment.client(url) as client:
        for batch_id in ids_of(client, batch_ids):
            batch = client.cancel_batch(batch_id)
            echo(json.dumps(batch) if as_json else f"{batch_id} {batch['status']}")
