"""`fallthrough config`: what is set."""

from __future__ import annotations

import json

import click

from cli import environment
from cli.commands.options import as_json
from cli.terminal import echo


@click.command()
@as_json
def config(*, as_json: bool) -> None:
    """Show the effective settings, secrets masked. Each is an environment variable."""
    rows = environment.settings().rows()
    if as_json:
        echo(json.dumps({name: value for name, value, _, _ in rows}))
        return
    for name, value, default, about in rows:
        mark = " " if value == default else "*"
        echo(f"{mark} {name}={value}\n      {about}")
