"""`fallthrough keys`: who may use the API."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from cli import environment
from cli.commands.options import as_json
from cli.terminal import aligned, echo, echo_once
from tasks import keys as keyring


@click.group()
@click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file of keys  [default: FALLTHROUGH_KEYS_FILE, or keys.json in the data folder].",
)
@click.pass_context
def keys(ctx: click.Context, path: Path | None) -> None:
    """Make, list and revoke API keys. A server reads the file again when it changes."""
    ctx.obj = path or Path(
        environment.settings().keys_file or environment.data_folder() / "keys.json"
    )


@keys.command("create")
@click.argument("owner")
@click.option("--admin", is_flag=True, help="May also see metrics, and see and reset breakers.")
@as_json
@click.pass_obj
def create_key(path: Path, owner: str, *, admin: bool, as_json: bool) -> None:
    """Make a key for OWNER; every key of one owner sees the same jobs, files and batches."""
    key, secret = keyring.create(path, owner, admin=admin)
    line = json.dumps({**_shown(key), "key": secret}) if as_json else secret
    try:
        echo_once(line, f"key {key.id} of {owner}, which nobody has seen, is revoked again")
    except BaseException:
        keyring.revoke(path, key.id)
        raise
    echo(f"key {key.id} of {owner} is in {path}; it is shown this once", err=True)


@keys.command("list")
@as_json
@click.pass_obj
def list_keys(path: Path, *, as_json: bool) -> None:
    """List the keys; their secrets are not kept."""
    ring = keyring.read_file(path)
    if as_json:
        echo(json.dumps([_shown(key) for key in ring]))
    else:
        echo("\n".join(aligned(_rows(ring))))


def _shown(key: keyring.Key) -> dict[str, Any]:
    fields = {"id": key.id, "owner": key.owner, "admin": key.admin}
    return {**fields, "created_at": key.created_at}


def _rows(ring: list[keyring.Key]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("key", "owner", "role", "created")]
    for key in ring:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(key.created_at))
        rows.append((key.id, key.owner, "admin" if key.admin else "", created))
    return rows


@keys.command("revoke")
@click.argument("key_id")
@as_json
@click.pass_obj
def revoke_key(path: Path, key_id: str, *, as_json: bool) -> None:
    """Make key KEY_ID invalid, within a second."""
    keyring.revoke(path, key_id)
    if as_json:
        echo(json.dumps({"id": key_id, "revoked": True}))
    else:
        echo(f"{key_id} is revoked", err=True)
