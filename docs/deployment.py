"""Writes what compose and the chart show of the settings, and the page of the chart's values.

deployment.py [--check]: --check only compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from tables import made

from tasks.settings import PREFIX, Settings, TierSettings, specs_of

if TYPE_CHECKING:
    from collections.abc import Iterator

CHART = Path(__file__).parents[1] / "helm" / "ai-platform"
Schema = dict[str, Any]
# What the chart sets by itself, or what is a secret, is no value under settings.
NOT_HERE = {"API_KEY", "API_URL"}
TIER_FIELDS = [spec.name.upper() for spec in specs_of(TierSettings)]


def names() -> list[str]:
    """Return the settings that a part of the fleet reads, without their prefix."""
    own = (row.variable.removeprefix(PREFIX) for row in Settings().rows())
    return [name for name in own if name not in NOT_HERE]


def schema() -> str:
    """Return values.schema.json with the settings that there are."""
    whole: Schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    about = {row.variable.removeprefix(PREFIX): row.about for row in Settings().rows()}
    value = {"type": ["string", "number"]}
    settings = whole["properties"]["settings"]
    settings["properties"] = {name: {"description": about[name], **value} for name in names()}
    # Of the tiers that settings.TIERS names; templates/checks.yaml looks at the name.
    settings["patternProperties"] = {f"^[A-Z][A-Z0-9_]*_({'|'.join(TIER_FIELDS)})$": value}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def settings_template() -> str:
    """Return the template that knows the settings' names."""
    return (
        "{{- /* Made by ./run docs: the settings that are no tier's of another name. */}}\n"
        f'{{{{- define "ft.settings" -}}}}\n{" ".join(names())}\n{{{{- end }}}}\n'
    )


def environment_file() -> str:
    """Return .env.example: what the settings do, each with its default."""
    lines = [HEAD.rstrip()]
    for row in (*Settings().rows(), *TierSettings().rows("<TIER>")):
        if row.variable == f"{PREFIX}<TIER>_URL":
            lines += ["", "# Of each further tier that FALLTHROUGH_TIERS names; in tiers.env."]
        lines += ["", f"# {row.about}", f"#{row.variable}={row.default}"]
    return "\n".join(lines) + "\n"


HEAD = """\
# Made by `./run docs`. cp .env.example .env, and take the # away before what you set.
# `docker compose` reads all of it; `fallthrough` reads the FALLTHROUGH_ lines that are the command
# line's own (docs/reference.md). docker-compose.yaml has some defaults of its own.

# With a GPU: runs Modular MAX, and the pipeline asks it.
#COMPOSE_PROFILES=gpu
# What MAX serves, and Hugging Face's token to load it with
#MAX_MODEL=modularai/Llama-3.1-8B-Instruct-GGUF
#HF_TOKEN=
# The model that Ollama pulls when it starts; none: empty
#OLLAMA_MODEL=smollm2:135m
# Ports on this machine; FALLTHROUGH_PORT is the API's
#FLOWER_PORT=5555
#PROMETHEUS_PORT=9090
#GRAFANA_PORT=3000
# Passwords: user:password of Flower, without a comma; of Grafana's admin
#FLOWER_BASIC_AUTH=
#GRAFANA_PASSWORD=
# true unless set to false; RabbitMQ's management plugin: http://user:password@rabbit-box:15672/api/
#FLOWER_READ_ONLY=true
#FLOWER_BROKER_API=
# Files on S3 (FALLTHROUGH_FILES_URL=s3://bucket/path): its keys, and the token of a role's; its
# region; another S3 than Amazon's, on this machine http://host.docker.internal:9000; and options of
# s3fs, in JSON
#AWS_ACCESS_KEY_ID=
#AWS_SECRET_ACCESS_KEY=
#AWS_SESSION_TOKEN=
#AWS_DEFAULT_REGION=
#AWS_ENDPOINT_URL=
#FSSPEC_S3=
# Where our images are pushed and pulled, and docker.io or a mirror of it
#IMAGE_REGISTRY=localhost
#IMAGE_TAG=latest
#HUB_REGISTRY=docker.io
# One whole reference each, in place of these
#PIPELINE_IMAGE=
#MODEL_IMAGE=
#VALKEY_IMAGE=
#OLLAMA_IMAGE=
#MAX_IMAGE=
#PROMETHEUS_IMAGE=
#GRAFANA_IMAGE=
# Above 80 % of it new work is refused
#VALKEY_MAXMEMORY=700mb
# What a part gets to stop: 5 s more than FALLTHROUGH_DRAIN_SECONDS, at least
#STOP_GRACE_PERIOD=30s
"""


def values() -> str:
    """Return the tables of the chart's values, one for each of the top level."""
    whole: Schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    head = ["| value | default | meaning |", "|---|---|---|"]
    blocks = ["\n".join([*head, *_rows(whole, whole, defaults, "", plain=True)])]
    for name, part in whole["properties"].items():
        if _parts(whole, part):
            rows = [*_rows(whole, part, defaults.get(name, {}), f"{name}.")]
            blocks.append("\n".join([f"### {name}", "", part["description"], "", *head, *rows]))
    return "\n\n".join(blocks)


def _rows(
    whole: Schema, node: Schema, defaults: Any, path: str, *, plain: bool = False
) -> Iterator[str]:
    """Yield the rows below a node. plain: only what has nothing below it."""
    common = []
    for name, child in node["properties"].items():
        default = defaults.get(name) if isinstance(defaults, dict) else None
        if _parts(whole, child):
            if not plain:
                yield from _rows(whole, _parts(whole, child), default or {}, f"{path}{name}.")
        elif path and "$ref" in child and child == whole["properties"].get(name) and not default:
            common.append(f"`{name}`")
        else:
            about = child.get("description") or _resolved(whole, child).get("description", "")
            shown = f"`{json.dumps(default, ensure_ascii=False)}`" if default is not None else ""
            yield f"| `{path}{name}` | {shown} | {about} |".replace("||", "| |")
    if common:
        yield f"| `{path}`…: {', '.join(common)} | | as above, of these pods alone |"


def _resolved(whole: Schema, node: Schema) -> Schema:
    found: Schema = whole["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
    return found


def _parts(whole: Schema, node: Schema) -> Schema:
    """Return the node if it is a group of values of which each has a row."""
    found = _resolved(whole, node)
    grouped = found.get("properties") and "patternProperties" not in found
    return found if grouped and ("$ref" not in node or node["$ref"].endswith(GROUPS)) else {}


GROUPS = ("/service", "/passwordSecret")
ROOT = CHART.parents[1]
FILES = {
    ROOT / ".env.example": environment_file,
    CHART / "values.schema.json": schema,
    CHART / "templates" / "_settings.tpl": settings_template,
    CHART / "README.md": lambda: made(
        (CHART / "README.md").read_text(encoding="utf-8"), {"table of the values": values()}
    ),
}


def main(*arguments: str) -> int:
    """Write the files; with --check, only say whether they are as they would be written."""
    wrong = 0
    for path, make in FILES.items():
        fresh = make()
        if "--check" not in arguments:
            path.write_text(fresh, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != fresh:
            sys.stderr.write(f"{path.relative_to(ROOT)} is not what the code says: ./run docs\n")
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
