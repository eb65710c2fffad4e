"""`fallthrough check`: whether all that a worker works with answers."""

from __future__ import annotations

import json
import os
import sys

import click

from cli import environment
from cli.check import FAILED, Check, table
from cli.commands.options import as_json
from cli.terminal import echo


@click.command()
@as_json
def check(*, as_json: bool) -> None:
    """Ask each tier, the store and the broker, and say what to do where something is wrong.

    Of a tier: can it be reached, is its certificate good, does it take the key, does it have the
    model, does it answer (one token). The exit status is 0 if all is well, 1 if not.
    """
    environment.settings()  # a bad one is told as by every command
    with Check(os.environ) as under_way:
        rows = under_way.rows()
    echo(json.dumps(rows) if as_json else table(rows))
    sys.exit(int(any(row["state"] == FAILED for row in rows)))
