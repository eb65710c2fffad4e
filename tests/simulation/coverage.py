"""Which lines of the product's rooms the simulation reaches, and which it never does."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import CodeType, FrameType

ROOT = Path(__file__).parents[2]
ROOMS = (
    *("api", "tasks/execution", "tasks/recovery", "tasks/store", "tasks/tiers"),
    *(
        "tasks/submit.py",
        "tasks/drain.py",
        "tasks/background.py",
        "tasks/group_commit.py",
        "tasks/whole.py",
    ),
)


class Coverage:
    """Lines of functions: what a module does when it is imported does not count."""

    def __init__(self) -> None:
        self._seen: dict[str, set[int]] = defaultdict(set)
        self._files = {str(path) for room in ROOMS for path in _modules(ROOT / room)}

    def __enter__(self) -> Self:
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, _: str, __: Any) -> Any:
        return self._line if frame.f_code.co_filename in self._files else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self._seen[frame.f_code.co_filename].add(frame.f_lineno)
        return self._line

    def report(self) -> str:
        """Return a line for each file, with the lines that were never reached, and the total."""
        rows, reached_all, lines_all = [], 0, 0
        for name in sorted(self._files):
            lines = _lines(compile(Path(name).read_text(), name, "exec"), top=True)
            missing = lines - self._seen[name]
            reached, number = len(lines) - len(missing), len(lines)
            reached_all, lines_all = reached_all + reached, lines_all + number
            shown = Path(name).relative_to(ROOT)
            if number:
                rows.append(f"{reached / number:6.1%}  {shown}  {_ranges(missing)}".rstrip())
        return "\n".join([*rows, f"{reached_all / lines_all:6.1%}  of {lines_all} lines"])


def _modules(path: Path) -> list[Path]:
    return sorted(path.glob("*.py")) if path.is_dir() else [path]


def _lines(code: CodeType, *, top: bool = False) -> set[int]:
    """Return the lines of the functions in a module's code."""
    function = not top and code.co_flags & 1  # it has locals of its own: no class's body
    found = {line for *_, line in code.co_lines() if line} if function else set()
    if function:
        found.discard(code.co_firstlineno)
    for constant in code.co_consts:
        if hasattr(constant, "co_lines"):
            found |= _lines(constant)
    return found


def _ranges(numbers: set[int]) -> str:
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
