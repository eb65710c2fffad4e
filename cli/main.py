"""The `fallthrough` command."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from cli import batch as batches
from cli.client import ApiFailedError, Client
from cli.prompts import Asked, InputError, read
from cli.stack.embedded import FolderInUseError
from cli.stack.parts import UpOptions
from cli.stack.ports import PortTakenError
from cli.stack.supervisor import StartError
from cli.up import run_up
from cli.waiting import milliseconds, wait_for
from tasks import keys as keyring
from tasks.errors import SettingsError
from tasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHUNK = 1000  # requests that one POST /v1/jobs takes
CANNOT = 2  # exit status: it could not be tried
INTERRUPTED = 130


class Fallthrough(click.Group):
    """Turns what is the user's to mend into one line and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (ApiFailedError, InputError, SettingsError, PortTakenError, FolderInUseError) as e:
            click.echo(f"fallthrough: {e}", err=True)
        except StartError as error:
            click.echo(f"fallthrough: the stack did not start: {error}", err=True)
        return ctx.exit(CANNOT)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
at_url = click.option(
    "--url", help="The API's address [default: FALLTHROUGH_API_URL, or http://127.0.0.1:8000]."
)


@click.group(cls=Fallthrough, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fallthrough")
def main() -> None:
    """See every prompt through: GPU, then CPU, then cache, then an honest degraded answer.

    \b
    fallthrough up                        start everything on this machine
    fallthrough submit "Why is it blue?"  ask one thing
    fallthrough submit prompts.jsonl --output results.jsonl
    fallthrough breakers                  see which tiers are in service
    """  # noqa: D301 - \b is click's


def _settings() -> Settings:
    return Settings.from_env(os.environ)


def _client(url: str | None) -> Client:
    settings = _settings()
    return Client(url or settings.api_url, settings.api_key)


def _default_data() -> Path:
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "fallthrough"


@main.command()
@click.option("--port", type=int, help="Port of the API; 0 picks a free one  [default: 8000]")
@click.option(
    "--flower-port", type=int, default=5555, show_default=True, help="Port of Flower; 0: free."
)
@click.option(
    "--workers",
    type=click.IntRange(0, 64),
    default=1,
    show_default=True,
    help="Worker processes for batch work, beside the one for interactive requests.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where jobs and logs are kept  [default: ~/.local/share/fallthrough]",
)
@as_json
def up(
    port: int | None, flower_port: int, workers: int, data_dir: Path | None, *, as_json: bool
) -> None:
    """Start the whole stack on this machine, and watch over it until Ctrl-C.

    Valkey, a small model as CPU tier, workers, the API and Flower. A part of your own takes the
    place of the embedded one: set FALLTHROUGH_REDIS_URL, FALLTHROUGH_CPU_URL; and
    FALLTHROUGH_GPU_URL for the server that all this is for. `fallthrough config` lists them.
    """
    settings = _settings()
    options = UpOptions(settings.port if port is None else port, flower_port, workers)
    sys.exit(run_up(settings, options, data_dir or _default_data(), as_json=as_json))


@main.command()
def demo() -> None:
    """Show all of it in a minute: answers, an outage, the cache, the way back."""
    from cli.demo import run_demo  # noqa: PLC0415 - only the demo needs it

    sys.exit(run_demo(_settings()))


@main.command()
@click.argument("source")
@click.option("--wait/--no-wait", default=None, help="Wait for the answers  [default: one prompt].")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Results, JSONL.")
@click.option("--model", help="Model to ask for.")
@click.option("--max-tokens", type=click.IntRange(1))
@click.option("--temperature", type=click.FloatRange(0, 2))
@click.option("--cache", type=click.Choice(["fallback", "first", "off"]))
@click.option("--on-exhausted", type=click.Choice(["degraded", "wait", "fail"]))
@click.option("--deadline", "deadline_seconds", type=float, help="Seconds until it is given up.")
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
    """Submit SOURCE: a prompt, a .jsonl or .txt file (one prompt a line), or - for stdin.

    \b
    fallthrough submit "Explain photosynthesis" --max-tokens 100
    fallthrough submit prompts.txt --output results.jsonl
    cat prompts.jsonl | fallthrough submit - --wait --json

    A line of JSONL has prompt or messages, and any sampling parameters; lines of OpenAI's batch
    format do as well. Options here are defaults for lines that do not say.
    """  # noqa: D301 - \b is click's
    defaults = {name: value for name, value in fields.items() if value is not None}
    asked = read(source)
    if output:
        _check_writable(output)
    with _client(url) as client:
        jobs = _send(client, asked, defaults)
        if not (wait or output or (wait is None and len(asked) == 1)):
            _print_accepted(jobs, as_json=as_json)
            return
        _leave_when_interrupted(lambda: _print_accepted(jobs, as_json=as_json))
        finished = wait_for(client, [job["id"] for job in jobs], Console(stderr=True))
    results = [
        {"custom_id": a.label, **finished[job["id"]]} for a, job in zip(asked, jobs, strict=True)
    ]
    _print_results(results, output, as_json=as_json)
    sys.exit(0 if all(r["status"] == "succeeded" for r in results) else 1)


def _leave_when_interrupted(tell: Callable[[], None]) -> None:
    """On Ctrl-C, say how to come back, and go at once: the long polls under way are no loss."""

    def interrupted(*_: object) -> None:
        tell()
        sys.stdout.flush()
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, interrupted)


def _check_writable(output: Path) -> None:
    # Better known before the prompts are answered than after.
    new = not output.exists()
    try:
        output.open("a", encoding="utf-8").close()
        if new:
            output.unlink()  # what is never answered leaves no file
    except OSError as error:
        message = f"cannot write {output}: {error.strerror}"
        raise InputError(message) from None


def _send(client: Client, asked: Sequence[Asked], defaults: dict[str, Any]) -> list[dict[str, Any]]:
    requests = [{**defaults, **a.request} for a in asked]
    jobs: list[dict[str, Any]] = []
    for start in range(0, len(requests), CHUNK):
        jobs += client.submit(requests[start : start + CHUNK])
    return jobs


def _print_accepted(jobs: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    for job in jobs:
        click.echo(json.dumps(job) if as_json else job["id"])
    if not as_json:
        click.echo(f"{len(jobs)} accepted; follow one with `fallthrough status ID`", err=True)


def _print_results(
    results: Sequence[dict[str, Any]], output: Path | None, *, as_json: bool
) -> None:
    lines = [json.dumps(result, ensure_ascii=False) for result in results]
    if output:
        output.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        click.echo(f"{len(results)} results in {output}", err=True)
    elif as_json:
        for line in lines:
            click.echo(line)
    else:
        for result in results:
            click.echo(result["text"] or f"[{result['status']}] {_why(result)}")
    degraded = sum(bool(result["degraded"]) for result in results)
    if degraded:
        click.echo(f"{degraded} of {len(results)} answers are degraded: no tier answered", err=True)


def _why(job: dict[str, Any]) -> str:
    return str((job.get("error") or {}).get("message", ""))


@main.command()
@click.argument("job_id")
@click.option("--wait", type=click.FloatRange(0, 60), default=0.0, help="Seconds to wait for it.")
@at_url
@as_json
def status(job_id: str, wait: float, url: str | None, *, as_json: bool) -> None:
    """Show a job: where it stands, which tiers were tried, its answer."""
    with _client(url) as client:
        _print_job(client.job(job_id, wait), as_json=as_json)


@main.command()
@click.argument("job_id")
@at_url
@as_json
def cancel(job_id: str, url: str | None, *, as_json: bool) -> None:
    """Cancel a job; a finished one stays as it is."""
    with _client(url) as client:
        _print_job(client.cancel(job_id), as_json=as_json)


def _print_job(job: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(job))
        return
    took = milliseconds(job)
    tier = f" by {job['tier_used']}" if job["tier_used"] else ""
    click.echo(f"{job['id']}  {job['status']}{tier}" + (f"  {took} ms" if took else ""))
    for attempt in job["attempts"]:
        detail = attempt.get("detail", "")
        ms = attempt["milliseconds"]
        click.echo(f"  {attempt['tier']:6} {attempt['verdict']:14} {ms:9.1f} ms  {detail}")
    if job["text"] or _why(job):
        click.echo(job["text"] or _why(job))


class FileFirst(click.Group):
    """A group whose first word may be a file: then its command is "run"."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


@main.group(cls=FileFirst)
def batch() -> None:
    """Send a whole file of prompts, follow it, and get its results.

    \b
    fallthrough batch prompts.jsonl --output results.jsonl
    fallthrough batch attach batch_… --output results.jsonl
    fallthrough batch list
    fallthrough batch cancel batch_…

    A .txt file has one prompt a line. A .jsonl file has lines of OpenAI's batch format, or lines
    with prompt or messages. The results are OpenAI's output lines, then the error lines.
    """  # noqa: D301 - \b is click's


to_file = click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Results, JSONL."
)


@batch.command()
@click.argument("file", type=click.Path(path_type=Path))
@to_file
@click.option("--window", default="24h", show_default=True, help="When it is given up: 90m, 2d, …")
@click.option("--priority", type=click.Choice(["low", "normal", "high"]))
@click.option("--on-exhausted", type=click.Choice(["wait", "degraded", "fail"]))
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
    detach: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Upload FILE, follow its batch, and download the results."""
    if output:
        _check_writable(output)
    asked = {"priority": priority, "fallthrough_on_exhausted": on_exhausted}
    metadata = {name: value for name, value in asked.items() if value}
    with _client(url) as client:
        batch_id = batches.submit(client, file, window, metadata)
        click.echo(batch_id, err=not detach)
        if not detach:
            _follow(client, batch_id, output, as_json=as_json)


@batch.command()
@click.argument("batch_id")
@to_file
@at_url
@as_json
def attach(batch_id: str, *, output: Path | None, url: str | None, as_json: bool) -> None:
    """Follow batch BATCH_ID again, and download its results."""
    if output:
        _check_writable(output)
    with _client(url) as client:
        _follow(client, batch_id, output, as_json=as_json)


def _follow(client: Client, batch_id: str, output: Path | None, *, as_json: bool) -> None:
    def come_back() -> None:
        again = f"fallthrough batch attach {batch_id}" + (f" --output {output}" if output else "")
        click.echo(f"\nit goes on without you; come back with: {again}", err=True)

    ended = batches.follow(client, batch_id, come_back)
    if as_json:
        click.echo(json.dumps(ended))
    sys.exit(batches.finish(client, ended, output))


@batch.command("list")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@at_url
@as_json
def list_batches(*, limit: int, url: str | None, as_json: bool) -> None:
    """List the latest batches."""
    with _client(url) as client:
        found = client.batches(limit)
    if as_json:
        click.echo(json.dumps(found))
    else:
        Console().print(batches.table(found))


@batch.command("cancel")
@click.argument("batch_id")
@at_url
def cancel_batch(batch_id: str, url: str | None) -> None:
    """Cancel batch BATCH_ID; what is finished is kept."""
    with _client(url) as client:
        click.echo(f"{batch_id} {client.cancel_batch(batch_id)['status']}")


@main.group(invoke_without_command=True)
@at_url
@as_json
@click.pass_context
def breakers(ctx: click.Context, url: str | None, *, as_json: bool) -> None:
    """Show the circuit breakers that the whole fleet shares."""
    ctx.obj = url
    if ctx.invoked_subcommand:
        return
    with _client(url) as client:
        found = client.breakers()
    if as_json:
        click.echo(json.dumps(found))
        return
    table = Table("breaker", "state", "failures", "retry in", "note")
    for name, view in found.items():
        note = view["hold_reason"] or ("" if view["configured"] else "not configured")
        wait = f"{view['retry_after_seconds']:.1f} s" if view["retry_after_seconds"] else ""
        table.add_row(name, view["state"], str(view["consecutive_failures"]), wait, note)
    Console().print(table)


@breakers.command()
@click.argument("name")
@click.pass_obj
def reset(url: str | None, name: str) -> None:
    """Close breaker NAME at once, for the whole fleet."""
    with _client(url) as client:
        click.echo(f"{name}: {client.reset(name)['state']}")


@main.group()
@click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file of keys  [default: FALLTHROUGH_KEYS_FILE, or keys.json in the data folder].",
)
@click.pass_context
def keys(ctx: click.Context, path: Path | None) -> None:
    """Make, list and revoke API keys. A server reads the file again when it changes."""
    ctx.obj = path or Path(_settings().keys_file or _default_data() / "keys.json")


@keys.command("create")
@click.argument("owner")
@click.option("--admin", is_flag=True, help="May also see metrics, and see and reset breakers.")
@click.pass_obj
def create_key(path: Path, owner: str, *, admin: bool) -> None:
    """Make a key for OWNER; every key of one owner sees the same jobs, files and batches."""
    key, secret = keyring.create(path, owner, admin=admin)
    click.echo(secret)
    click.echo(f"key {key.id} of {owner} is in {path}; it is shown this once", err=True)


@keys.command("list")
@as_json
@click.pass_obj
def list_keys(path: Path, *, as_json: bool) -> None:
    """List the keys; their secrets are not kept."""
    found = keyring.read_file(path)
    if as_json:
        rows = ({"id": k.id, "owner": k.owner, "admin": k.admin} for k in found)
        click.echo(json.dumps(list(rows)))
        return
    table = Table("key", "owner", "role", "created")
    for key in found:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(key.created_at))
        table.add_row(key.id, key.owner, "admin" if key.admin else "", created)
    Console().print(table)


@keys.command("revoke")
@click.argument("key_id")
@click.pass_obj
def revoke_key(path: Path, key_id: str) -> None:
    """Make key KEY_ID invalid, within a second."""
    keyring.revoke(path, key_id)
    click.echo(f"{key_id} is revoked", err=True)


@main.command()
@as_json
def config(*, as_json: bool) -> None:
    """Show the effective settings, secrets masked. Each is an environment variable."""
    rows = _settings().rows()
    if as_json:
        click.echo(json.dumps({name: value for name, value, _, _ in rows}))
        return
    for name, value, default, about in rows:
        mark = " " if value == default else "*"
        click.echo(f"{mark} {name}={value}\n      {about}")


if __name__ == "__main__":
    main()
