"""`fallthrough breakers`: which tiers are in service."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cli import environment
from cli.commands.options import as_json, at_url
from cli.terminal import echo


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
        Console().print(_table(views))


def _table(views: dict[str, dict[str, Any]]) -> Table:
    table = Table("breaker", "state", "failures", "retry in", "note")
    for name, view in views.items():
        note = view["hold_reason"] or ("" if view["configured"] else "not configured")
        wait = f"{view['retry_after_seconds']:.1f} s" if view["retry_after_seconds"] else ""
        table.add_row(name, view["state"], str(view["consecutive_failures"]), wait, note)
    return table


@breakers.command()
@click.argument("name")
@click.pass_obj
def reset(url: str | None, name: str) -> None:
    """Close breaker NAME at once, for the whole fleet."""
    with environment.client(url) as client:
        echo(f"{name}: {client.reset(name)['state']}")
