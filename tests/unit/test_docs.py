"""The pages in docs/ say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from starlette.routing import Route

from api.app import create_app
from cli.main import main
from tasks.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CIRCUIT_BREAKER_IMPLEMENTATION.md"]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def rows(page, beginning):
    """The lines of a page that begin so."""
    lines = (DOCS / page).read_text().splitlines()
    return [line for line in lines if line.startswith(beginning)]


def test_the_table_of_settings_is_that_of_the_code():
    table = [
        f"| `{name}` | {f'`{default}`' if default else ''} | {about} |"
        for name, _, default, about in Settings().rows()
    ]
    shown = rows("reference.md", "| `FALLTHROUGH_")
    assert shown == table, "it must read:\n" + "\n".join(table)


def test_every_route_of_the_api_is_listed():
    served = {
        (method, route.path)
        for route in create_app(Settings()).routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    # Each route under /v1 is also served without it; it is listed once.
    served -= {(method, path.removeprefix("/v1")) for method, path in served if "/v1/" in path}
    listed = rows("reference.md", tuple(f"| `{m}` | `/" for m in ("GET", "POST", "DELETE")))
    assert sorted(tuple(row.split("`")[1:4:2]) for row in listed) == sorted(served)


def commands(group, *path):
    for name, command in group.commands.items():
        yield " ".join((*path, name))
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


def test_every_command_is_listed():
    listed = {
        re.sub(r" [A-Z_]+$", "", row.split("`")[1])
        for row in rows("reference.md", "| `fallthrough ")
    }
    groups = {f"fallthrough {name}" for name in ("batch", "keys")}  # they do nothing by themselves
    assert listed == set(commands(main, "fallthrough")) - groups


def test_every_test_that_the_coverage_names_is_there():
    named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", (DOCS / "seed-coverage.md").read_text())
    assert len(named) > 20
    for file, test in named:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), test


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        if anchor:
            assert anchor in anchors(other), target
