"""The pages in docs/ say what the code says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest
from harness.clients import TRIED, ways_of
from starlette.routing import Route

from api.app import create_app
from cli.main import main
from tasks.settings import Settings, TierSettings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CIRCUIT_BREAKER_IMPLEMENTATION.md"]
CHANGELOG = ROOT / "CHANGELOG.md"
CODE = ("api", "circuit_breaker", "cli", "fallback_chain", "tasks", "workers")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def rows(page, beginning):
    """The lines of a page that begin so."""
    lines = (DOCS / page).read_text().splitlines()
    return [line for line in lines if line.startswith(beginning)]


def test_the_table_of_settings_is_that_of_the_code():
    table = [
        f"| `{name}` | {f'`{default}`' if default else ''} | {about} |"
        for name, _, default, about in (*Settings().rows(), *TierSettings().rows("<TIER>"))
    ]
    shown = rows("reference.md", "| `FALLTHROUGH_")
    assert shown == table, "it must read:\n" + "\n".join(table)


def test_every_route_of_the_api_is_listed():
    served = {
        (method, route.path_format)
        for route in create_app(Settings()).routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    # Each route under /v1 is also served without it; it is listed once.
    served -= {(method, path.removeprefix("/v1")) for method, path in served if "/v1/" in path}
    listed = rows("reference.md", tuple(f"| `{m}` | `/" for m in ("GET", "POST", "DELETE")))
    assert sorted(tuple(row.split("`")[1:4:2]) for row in listed) == sorted(served)


def test_the_clients_are_those_that_are_tried_each_with_its_version_and_its_ways():
    def cell(ways, words):
        return ", ".join(word for way, word in words.items() if way in ways) or "no"

    table = []
    for name, tried in TRIED.items():
        ways = ways_of(tried.file)
        cells = (
            cell(ways, {"plain": "sync", "plain_async": "async"}),
            cell(ways, {"streamed": "sync", "streamed_async": "async"}),
            cell(ways, {"tools": "plain", "tools_streamed": "streamed"}),
            cell(ways, {"legacy": "plain", "legacy_streamed": "streamed"}),
        )
        label = f"{name}: `{tried.package}`"
        table.append(f"| {' | '.join((label, tried.version, *cells))} |")
    shown = rows("clients.md", tuple(f"| {name}: `" for name in TRIED))
    assert shown == table, "it must read:\n" + "\n".join(table)


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
    groups = {f"fallthrough {name}" for name in ("batch", "files", "jobs", "keys")}  # nothing alone
    assert listed == set(commands(main, "fallthrough")) - groups


def named_tests(page):
    """(file, test) of every test that a page names."""
    return re.findall(r"(tests/[\w/.]+)::(\w+)", page.read_text())


def test_the_coverage_names_tests():
    assert len(named_tests(DOCS / "seed-coverage.md")) > 20


@pytest.mark.parametrize("page", [*PAGES, CHANGELOG], ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_there(page):
    for file, test in named_tests(page):
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), test


@pytest.mark.parametrize("page", [*PAGES, CHANGELOG], ids=lambda page: page.name)
def test_every_file_and_folder_of_ours_that_a_page_names_is_there(page):
    text = page.read_text()
    ours = [each.name for each in ROOT.iterdir() if each.is_dir() and each.name.isidentifier()]
    paths = re.findall(rf"(?<![\w./:-])(?:\./)?((?:{'|'.join(ours)})/[\w./-]*)", text)
    missing = [path for path in paths if not (ROOT / path.rstrip(".")).exists()]
    # A file may be named without its folder.
    names = set(re.findall(r"(?<![\w./*-])([\w-]+\.(?:py|lua|yaml|lock|toml))\b", text))
    there = {file.name for folder in ours for file in (ROOT / folder).rglob("*.*")}
    there |= {file.name for file in ROOT.iterdir()}
    assert [*missing, *sorted(names - there)] == []


def constants():
    """Every text that stands in the code; of an f-string, its parts."""
    for folder in CODE:
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_what_a_process_says_when_it_does_not_start_is_quoted_as_it_stands_in_the_code():
    page = (DOCS / "troubleshooting.md").read_text()
    section = page.split("\n## A process does not start\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \| ", section, re.MULTILINE)
    # `…` stands for what differs, and a hint after a semicolon may come from elsewhere.
    quoted = {part.strip() for cell in cells for part in re.split("[`…;]", cell)}
    texts = "\n".join(constants())
    assert len(cells) > 10
    assert [part for part in quoted if part not in texts] == []


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_who_reads_the_apis_metrics_as_text_asks_for_text(page):
    calls = re.findall(r"curl[^\n`]*:8000/metrics[^\n`]*", page.read_text())
    assert all("jq" in call or "Accept: text/plain" in call for call in calls)
