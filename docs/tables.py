"""Writes what a page shows of the tables of transitions: `./run docs`.

tables.py [--check] [PAGE]: docs/architecture.md by default; --check only compares.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tasks.records import batches, jobs
from tasks.records.transitions import diagram, table

PAGE = Path(__file__).parent / "architecture.md"
BLOCKS = {
    "diagram of a job": f"```mermaid\n{diagram(jobs.TRANSITIONS)}\n```",
    "table of a job": table(jobs.TRANSITIONS),
    "diagram of a batch": f"```mermaid\n{diagram(batches.TRANSITIONS)}\n```",
    "table of a batch": table(batches.TRANSITIONS),
    "diagram of a unit": f"```mermaid\n{diagram(batches.UNIT_TRANSITIONS)}\n```",
}


def made(page: str) -> str:
    """Return the page with every block made anew."""
    for name, text in BLOCKS.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of the {name} -->"
        pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        page, found = pattern.subn(lambda _, b=begin, t=text, e=end: f"{b}\n{t}\n{e}", page)
        if found != 1:
            message = f"the page has no block {name!r}"
            raise SystemExit(message)
    return page


def main(*arguments: str) -> int:
    """Write the page; with --check, only say whether it is as it would be written."""
    names = [argument for argument in arguments if argument != "--check"]
    path = Path(names[0]) if names else PAGE
    page = path.read_text(encoding="utf-8")
    fresh = made(page)
    if "--check" not in arguments:
        path.write_text(fresh, encoding="utf-8")
    elif fresh != page:
        sys.stderr.write(f"{path.name} is not what the tables say: ./run docs\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
