"""Writes what the pages show of tables that are in the code: `./run docs`.

tables.py [--check] [FOLDER]: --check only compares; FOLDER: of the pages.
"""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path

from circuit_breaker import machine as breaker
from fallback_chain.classify import RULES
from tasks.records import batches, jobs
from tasks.records.transitions import diagram, table

MOST_WORDS = 4  # of a row; it names the first


def replies() -> str:
    """Return the rules by which a reply is understood."""
    rows = ["| status | if it says | verdict |", "|---|---|---|"]
    for rule in RULES:
        words = ", ".join(f"`{word.strip('`')}`" for word in rule.words[:MOST_WORDS])
        more = " …" if len(rule.words) > MOST_WORDS else ""
        verdict = f"`{rule.verdict}`" + (f", {rule.detail}" if rule.detail else "")
        said = "anything, as an error object" if rule.of_an_error else words + more
        rows.append(f"| {_spans(sorted(rule.statuses))} | {said} | {verdict} |")
    return "\n".join(rows)


def _spans(numbers: list[int]) -> str:
    if len(numbers) == numbers[-1] - numbers[0] + 1 > 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def breaker_diagram() -> str:
    """Return how a breaker's states follow each other, for Mermaid."""
    lines = ["stateDiagram-v2", f"    [*] --> {breaker.CircuitState.CLOSED}"]
    for source, target in dict.fromkeys((each.source, each.target) for each in breaker.TRANSITIONS):
        reasons = [
            each.reason
            for each in breaker.TRANSITIONS
            if (each.source, each.target) == (source, target)
        ]
        sources = [source] if source else [s for s in breaker.CircuitState if s is not target]
        lines += [f"    {each} --> {target}: {'<br/>'.join(reasons)}" for each in sources]
    return "\n".join(lines)


def breaker_table() -> str:
    """Return the same as a table."""
    rows = ["| from | to | when |", "|---|---|---|"]
    for source, target, reason in breaker.TRANSITIONS:
        rows.append(f"| {f'`{source}`' if source else 'any'} | `{target}` | {reason} |")
    return "\n".join(rows)


FOLDER = Path(__file__).parent
ARCHITECTURE = {
    "diagram of a job": f"```mermaid\n{diagram(jobs.TRANSITIONS)}\n```",
    "table of a job": table(jobs.TRANSITIONS),
    "diagram of a batch": f"```mermaid\n{diagram(batches.TRANSITIONS)}\n```",
    "table of a batch": table(batches.TRANSITIONS),
    "diagram of a unit": f"```mermaid\n{diagram(batches.UNIT_TRANSITIONS)}\n```",
}


BREAKER_PAGE = "../CIRCUIT_BREAKER_IMPLEMENTATION.md"
PAGES = {
    BREAKER_PAGE: {
        "diagram of a breaker": f"```mermaid\n{breaker_diagram()}\n```",
        "table of a breaker": breaker_table(),
    },
    "architecture.md": ARCHITECTURE,
    "reference.md": {"table of replies": replies()},
}


def made(page: str, blocks: dict[str, str]) -> str:
    """Return the page with every block made anew."""
    for name, text in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of the {name} -->"
        pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        block = f"{begin}\n{text}\n{end}"
        page, found = pattern.subn(partial(_given, block), page)
        if found != 1:
            message = f"the page has no block {name!r}"
            raise SystemExit(message)
    return page


def _given(text: str, _: re.Match[str]) -> str:
    return text


def main(*arguments: str) -> int:
    """Write the pages; with --check, only say whether they are as they would be written."""
    folders = [argument for argument in arguments if argument != "--check"]
    folder, wrong = Path(folders[0]) if folders else FOLDER, 0
    for name, blocks in PAGES.items():
        path = folder / name
        page = path.read_text(encoding="utf-8")
        fresh = made(page, blocks)
        if "--check" not in arguments:
            path.write_text(fresh, encoding="utf-8")
        elif fresh != page:
            sys.stderr.write(f"{name} is not what the tables say: ./run docs\n")
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
