"""`fallthrough doctor`, `env`: what is wrong, and what to do; what the stack here works with."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import environment
from cli.advice import command
from cli.check import FAILED, Check, CheckFailedError, table
from cli.client import is_same_api
from cli.commands.options import as_json, at_url
from cli.doctor import NONE, row, row_of_no_stack, rows_of_api, rows_of_stack
from cli.stack.running import Running, running_in
from cli.stack.supervisor import environ_with
from cli.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.check import Row

of_stack = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where `fallthrough up` keeps its jobs  [default: ~/.local/share/fallthrough]",
)


@click.command()
@of_stack
@at_url
@as_json
def doctor(*, data_dir: Path | None, url: str | None, as_json: bool) -> None:
    """Ask all parts how they are, and say what to do where something is wrong.

    Beside a running `fallthrough up`: its processes and disk; then its API (workers, queues,
    breakers), its store, broker and tiers, with its own settings. Without one, what the settings
    of this environment name. With --url, the API there alone. Of a tier: can it be reached, is its
    certificate good, does it take the key, does it have the model, does it answer (one token).
    The exit status is 0 if nothing has failed, 1 if something has.
    """
    settings = environment.settings()  # a bad one is told as by every command
    data = data_dir or environment.data_folder()
    stack = None if url else running_in(data)
    elsewhere = data_dir is None and environment.API_URL in os.environ
    if stack and elsewhere and not is_same_api(stack.api_url, settings.api_url):
        stack = None  # as for all other commands: the API that is named is the one that is meant
    if stack and stack.api_url and not is_same_api(stack.api_url, settings.api_url):
        url = stack.api_url  # so the commands that are advised name it
    rows = list(_rows(url, data, stack))
    echo(json.dumps(rows) if as_json else table(rows))
    if failed := sum(each["state"] == FAILED for each in rows):
        echo(f"{failed} of {len(rows)} checks failed; behind → stands what to do", err=True)
    sys.exit(1 if failed else 0)


def _rows(url: str | None, data: Path, stack: Running | None) -> Iterator[Row]:
    """Yield all there is to say. url: the API's, where the settings name another."""
    with contextlib.ExitStack() as leave:
        client = leave.enter_context(environment.client(url))
        if stack and not stack.parts:  # what is not there yet is no fault
            yield from rows_of_stack(stack, client)
            return
        check = None
        if stack or not url:
            check = leave.enter_context(Check(_settings_of(stack)))
        if stack:
            yield from rows_of_stack(stack, client)
        elif check and environment.API_URL not in os.environ:
            yield row_of_no_stack(data)
        yield from rows_of_api(client)
        if check:
            yield from _rows_of_tiers(check, stack)


def _settings_of(stack: Running | None) -> dict[str, str]:
    return environ_with(stack.settings()) if stack and stack.settings() else dict(os.environ)


def _rows_of_tiers(check: Check, stack: Running | None) -> Iterator[Row]:
    if stack and not stack.settings():
        detail = "how its parts are set cannot be read here: asked with this environment's settings"
        yield row("up", "settings", NONE, detail)
    try:
        yield from check.rows()
    except CheckFailedError as error:
        yield row("tiers", "reach", FAILED, f"they could not be asked: {error}", "mend that")


@click.command()
@of_stack
@as_json
def env(*, data_dir: Path | None, as_json: bool) -> None:
    """Print the settings that a running `fallthrough up` works with, for a shell.

    \b
    eval "$(fallthrough env)"
    redis-cli -u $FALLTHROUGH_REDIS_URL info memory

    Passwords and keys are among them. Do it in a shell of its own: a `fallthrough up` that is
    started there would take the store for one of yours.
    """  # noqa: D301 - \b is click's
    data = data_dir or environment.data_folder()
    stack = running_in(data)
    settings = stack.settings() if stack else {}
    if not stack or not settings:
        reason = "runs" if not stack else "has told its settings"
        up = command("up", *environment.options_of(data))
        advice = f"start one ({up}), or name its --data-dir"
        message = f"no `fallthrough up` {reason} on {data}: {advice}"
        raise CheckFailedError(message)
    # A worker's own port is no other's.
    told = {n: v for n, v in sorted(settings.items()) if not n.startswith("FALLTHROUGH_WORKER_")}
    told[environment.API_URL] = stack.api_url
    if as_json:
        echo(json.dumps(told))
        return
    for name, value in told.items():
        echo(f"export {name}={shlex.quote(value)}")
