"""`fallthrough breakers`: which tiers are in service."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import click

from cli import environment
from cli.breakers import notes, state
from cli.commands.options import as_json, at_url
from cli.terminal import aligned, echo


class Asked(NamedTuple):
    """Options that may stand before the name of a command, or behind it."""

    url: str | None
    as_json: bool


@click.group(invoke_without_command=True)
@at_url
@as_json
@click.pass_context
def breakers(ctx: click.Context, url: str | None, *, as_json: bool) -> None:
    """Show the circuit breakers that the whole fleet shares."""
    ctx.obj = Asked(url, as_json)
    if ctx.invoked_subcommand:
        return
    with environment.client(url) as client:
        views = client.breakers()
    if as_json:
        echo(json.dumps(views))
    else:
        echo("\n".join(_lines(views)))


def _lines(views: dict[str, dict[str, Any]]) -> list[str]:
    """Return a row for each breaker, and below them what is to be said of one."""
    rows = [("breaker", "state", "in a row", "window", "goes on in")]
    for name, view in views.items():
        # One opened by hand waits for nobody's time.
        wait = view["retry_after_seconds"] if view["override"] != "open" else 0.0
        failures, goes_on = str(view["consecutive_failures"]), f"{wait:.1f} s" if wait else ""
        rows.append((name, state(view), failures, _window(view["window"]), goes_on))
    below = [f"{name}: {note}" for name, view in views.items() for note in notes(view)]
    return [*aligned(rows), *below]


def _window(window: dict[str, Any]) -> str:
    slow = f", {window['slow']} slow" if window["slow"] else ""
    failed = f"{window['failures']} of {window['calls']} failed{slow}"
    return f"{failed} in {window['seconds']:g} s" if window["calls"] else ""


def _command(action: str, about: str) -> None:
    @breakers.command(action, help=about)
    @click.argument("name")
    @click.option("--why", default="", help="What others are told of it.")
    @at_url
    @as_json
    @click.pass_obj
    def change(before: Asked, name: str, why: str, url: str | None, *, as_json: bool) -> None:
        with environment.client(url or before.url) as client:
            view = client.change_breaker(name, action, why)
        told = json.dumps(view) if as_json or before.as_json else f"{name}: {state(view)}"
        echo(told)


_command("open", "Keep every call away from breaker NAME's server, until told otherwise.")
_command("disable", "Let every call through breaker NAME and count none, until told otherwise.")
_command("auto", "Have breaker NAME decide by itself again; one that was opened is probed.")
_command("reset", "Close breaker NAME at once, for the whole fleet.")
