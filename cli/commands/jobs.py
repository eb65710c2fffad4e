"""`fallthrough submit`, `status`, `cancel`: single jobs, and prompts from a file."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, get_args

import click
from rich.console import Console

from cli import environment
from cli.client import ApiFailedError
from cli.commands.options import (
    Finite,
    as_json,
    at_url,
    check_apart,
    check_writable,
    files_here,
    names,
    shape_of,
    shaped,
    to_file,
)
from cli.interrupt import leave_on_interrupt
from cli.jobs import milliseconds, submit_prompts, wait_for
from cli.output import writing
from cli.prompts import read
from cli.streams import tell
from cli.terminal import echo
from tasks.jsonl.one_line import one_line
from tasks.records.policies import CachePolicy, ExhaustedPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cli.client import Client
    from cli.prompts import Prompt


@click.command()
@click.argument("source", shell_complete=files_here)
@click.option("--wait/--no-wait", default=None, help="Wait for the answers  [default: one prompt].")
@to_file
@shaped
@click.option("--cache", type=click.Choice(get_args(CachePolicy)))
@click.option("--on-exhausted", type=click.Choice(get_args(ExhaustedPolicy)))
@click.option(
    "--tiers", callback=names, help="Tiers that may answer, as gpu,cpu,cache  [default: all]."
)
@click.option(
    "--deadline",
    "deadline_seconds",
    type=Finite(0, min_open=True),
    help="Seconds until it is given up.",
)
@at_url
@as_json
def submit(
    source: str,
    *,
    wait: bool | None,
    output: Path | None,
    url: str | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Submit SOURCE: a prompt, a .txt, .jsonl, .json or .csv file, or - for stdin.

    \b
    fallthrough submit "Explain photosynthesis" --max-tokens 100
    fallthrough submit prompts.txt --output results.jsonl
    cat prompts.jsonl | fallthrough submit - --wait --json

    A line of JSONL has prompt or messages, and any sampling parameters; lines of OpenAI's batch
    format do as well. Options here are defaults for lines that do not say. One
    answer is shown as it comes, where there is a terminal to show it.
    """  # noqa: D301 - \b is click's
    words = {name: fields.pop(name) for name in ("cache", "on_exhausted", "tiers")}
    words["deadline_seconds"] = fields.pop("deadline_seconds")
    prompts = read(source, shape_of(fields, **words))
    defaults: dict[str, Any] = {}
    if output:
        check_apart(source, output)
        check_writable(output)
    waits = wait or output or (wait is None and len(prompts) == 1)
    streams = waits and len(prompts) == 1 and sys.stdout.isatty() and not (output or as_json)
    if streams:
        defaults["stream"] = True
    with environment.client(url) as client:
        jobs: list[dict[str, Any]] = []
        leave_on_interrupt(lambda: _print_accepted(client, jobs, as_json=as_json))
        try:
            submit_prompts(client, prompts, defaults, jobs)
            results = _results(client, prompts, jobs, streams=streams) if waits else []
        except ApiFailedError:
            if jobs:
                _print_accepted(client, jobs, as_json=as_json)
            raise
        if not waits:
            _print_accepted(client, jobs, as_json=as_json)
            return
        if not streams:
            _print_results(client, results, output, as_json=as_json)
    sys.exit(_verdict(client, results))


def _results(
    client: Client, prompts: Sequence[Prompt], jobs: Sequence[dict[str, Any]], *, streams: bool
) -> list[dict[str, Any]]:
    """Return the jobs when they are finished. streams: the only one's answer is told meanwhile."""
    if streams:
        return [_tell(client, jobs[0])]
    finished = wait_for(client, [job["id"] for job in jobs], Console(stderr=True))
    return [
        {"custom_id": prompt.label, **finished[job["id"]]}
        for prompt, job in zip(prompts, jobs, strict=True)
    ]


def _tell(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    """Print an answer as it comes; return its job."""
    result = tell(client, job["id"], Console(stderr=True))
    if not result["text"]:
        _print_text(result)
    return result


def _print_accepted(client: Client, jobs: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    for job in jobs:
        echo(json.dumps(job) if as_json else job["id"])
    if not as_json:
        echo(f"{len(jobs)} accepted; follow one with `{client.command('status', 'ID')}`", err=True)


def _print_results(
    client: Client, results: Sequence[dict[str, Any]], output: Path | None, *, as_json: bool
) -> None:
    if output:
        lines = [json.dumps(result, ensure_ascii=False) for result in results]
        ids = " ".join(result["id"] for result in results[:3])
        more = f" … and {len(results) - 3} more" if len(results) > 3 else ""  # noqa: PLR2004
        look = f"look at each with `{client.command('status', 'ID')}`: {ids}{more}"
        with writing(output, look) as target:
            target.writelines(one_line(line.encode(errors="replace")) + b"\n" for line in lines)
        echo(f"{len(results)} results in {output}", err=True)
    elif as_json:
        for result in results:
            echo(json.dumps(result))  # in ASCII: a locale may have no letter for what a model says
    else:
        for result in results:
            _print_text(result)


def _print_text(job: dict[str, Any]) -> None:
    echo(job["text"] or f"[{job['status']}] {_error_message(job)}")


def _verdict(client: Client, results: Sequence[dict[str, Any]]) -> int:
    """Say what was not answered by a model or a cache, and how to see why; return the status."""
    degraded = sum(bool(result["degraded"]) for result in results)
    failed = [result["id"] for result in results if result["status"] != "succeeded"]
    if not degraded and not failed:
        return 0
    # A prompt that was refused is no breaker's matter.
    words = ("status", failed[0]) if failed else ("breakers",)
    echo(
        f"{degraded + len(failed)} of {len(results)} prompts were not answered by a model or a "
        f"cache ({degraded} degraded, {len(failed)} without an answer); "
        f"`{client.command(*words)}` says why",
        err=True,
    )
    return 1


@click.command()
@click.argument("job_id")
@click.option("--wait", type=Finite(0, 60), default=0.0, help="Seconds to wait for it.")
@at_url
@as_json
def status(job_id: str, wait: float, url: str | None, *, as_json: bool) -> None:
    """Show a job: where it stands, which tiers were tried, its answer."""
    with environment.client(url) as client:
        _print_job(client.job(job_id, wait), as_json=as_json)


@click.command()
@click.argument("job_id")
@at_url
@as_json
def cancel(job_id: str, url: str | None, *, as_json: bool) -> None:
    """Cancel a job; a finished one stays as it is."""
    with environment.client(url) as client:
        _print_job(client.cancel(job_id), as_json=as_json)


def _print_job(job: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        echo(json.dumps(job))
        return
    duration = milliseconds(job)
    tier = f" by {job['tier_used']}" if job["tier_used"] else ""
    echo(f"{job['id']}  {job['status']}{tier}" + (f"  {duration} ms" if duration else ""))
    for attempt in job["attempts"]:
        detail = attempt.get("detail", "")
        ms = attempt["milliseconds"]
        tier = attempt["tier"] + (f":{attempt['endpoint']}" if "endpoint" in attempt else "")
        echo(f"  {tier:6} {attempt['verdict']:14} {ms:9.1f} ms  {detail}")
    if text := job["text"] or _error_message(job):
        echo(text)


def _error_message(job: dict[str, Any]) -> str:
    return str((job.get("error") or {}).get("message", ""))
