"""`fallthrough breakers`: which tiers are in service."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from cli import environment
from cli.commands.options import as_json, at_url
from cli.terminal import aligned, echo

# What was done by hand, by the override that it left. Without one it was ended, or a reset.
BY_HAND = {"open": "opened", "disabled": "disabled"}


@click.group(invoke_without_command=True)
@at_url
@as_json
@click.pass_context
def breakers(ctx: click.Context, url: str | None, *, as_json: bool) -> None:
    """Show the circuit breakers that the whole fleet shares."""
    ctx.obj = url
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
        rows.append((name, _state(view), failures, _window(view["window"]), goes_on))
    notes = [f"{name}: {note}" for name, view in views.items() for note in _notes(view)]
    return [*aligned(rows), *notes]


def _state(view: dict[str, Any]) -> str:
    if view["override"]:
        return f"{view['state']} (by hand: {view['override']})"
    if view["state"] == "closed" and 0 < view["share"] < 1:
        return f"closed, {view['share']:.0%} of calls"
    return str(view["state"])


def _window(window: dict[str, Any]) -> str:
    slow = f", {window['slow']} slow" if window["slow"] else ""
    failed = f"{window['failures']} of {window['calls']} failed{slow}"
    return f"{failed} in {window['seconds']:g} s" if window["calls"] else ""


def _notes(view: dict[str, Any]) -> list[str]:
    notes = [] if view["configured"] else ["not configured"]
    troubles = view.get("troubles") or ()
    notes += [f"{each['trouble']} at {each['host']}: {each['reason']}" for each in troubles]
    if view["hold_reason"] and not any(each["trouble"] == view["hold_reason"] for each in troubles):
        notes.append(view["hold_reason"])
    # Of a closed breaker single failures are its window's.
    if view["state"] != "closed" and not troubles and (failed := view.get("unanswered")):
        notes.append(f"{failed['host']} does not answer ({failed['last']})")
    if changed := view["changed"]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(changed["at"]))
        what = BY_HAND.get(view["override"], "reset or set to auto")
        why = f": {changed['why']}" if changed["why"] else ""
        notes.append(f"{what} by hand, {changed['by'] or 'somebody'}, {at}{why}")
    return notes


def _command(action: str, about: str) -> None:
    @breakers.command(action, help=about)
    @click.argument("name")
    @click.option("--why", default="", help="What others are told of it.")
    @click.pass_obj
    def change(url: str | None, name: str, why: str) -> None:
        with environment.client(url) as client:
            view = client.change_breaker(name, action, why)
        echo(f"{name}: {_state(view)}")


_command("open", "Keep every call away from breaker NAME's server, until told otherwise.")
_command("disable", "Let every call through breaker NAME and count none, until told otherwise.")
_command("auto", "Have breaker NAME decide by itself again; one that was opened is probed.")
_command("reset", "Close breaker NAME at once, for the whole fleet.")
