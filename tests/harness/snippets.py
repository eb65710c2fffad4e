"""The snippets of README and docs, and a folder in which a person could paste them.

A command of the shell runs as it is printed. curl finds the printed addresses at the stack's ports
(by its .curlrc). What would change this machine (docker, helm, kubectl, a second stack) is a
stand-in that takes what the real one takes: services, files, options.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CIRCUIT_BREAKER_IMPLEMENTATION.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SHIMS = ("docker", "kubectl", "helm", "redis-cli", "celery", "python", "fallthrough")
LENT = ("helm", "configs", "docker-compose.yaml", "compose.local.yaml", "load_test.py", "tasks")


@dataclass(frozen=True)
class Snippet:
    """One fence of a page; line: its number in the page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets(*languages: str) -> list[Snippet]:
    """Return every fence in one of these languages, of every page."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            indent, language, body = match.groups()
            if language in languages:
                body = re.sub(f"^{indent}", "", body, flags=re.MULTILINE)
                line = text.count("\n", 0, match.start()) + 1
                found.append(Snippet(page.name, line, language, body))
    return found


def replaced(text: str, places: dict[str, str]) -> str:
    """Return a text with what stands for something (job_…) in place."""
    for printed, real in places.items():
        text = text.replace(printed, real)
    return text


class Desk:
    """A folder with what a clone has, files to send, and the stand-ins first in PATH."""

    def __init__(self, folder: Path, ports: dict[str, str], settings: dict[str, str]) -> None:
        self.folder = folder
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name in LENT:
            (folder / name).symlink_to(ROOT / name)
        for name in SHIMS:
            (bin_folder / name).write_text(
                f"#!/bin/sh\nPYTHONPATH='{ROOT / 'tests'}' exec '{sys.executable}' -P "
                f'-m harness.stand_ins {name} "$@"\n'
            )
        shutil.copy(bin_folder / "fallthrough", folder / "run")
        for file in (*bin_folder.iterdir(), folder / "run"):
            file.chmod(0o755)
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "activate").write_text("")
        (folder / "prompts.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
        (folder / "prompts.txt").write_text("one\ntwo\n")
        (folder / "fallthrough" / "files").mkdir(parents=True)
        lines = "".join(f'connect-to = "{here}:{there}"\n' for here, there in ports.items())
        (folder / ".curlrc").write_text(f"{lines}max-time = 30\nsilent\nshow-error\n")
        clean = {k: v for k, v in os.environ.items() if not k.startswith("FALLTHROUGH_")}
        self.environ = {
            **clean,
            "HOME": str(folder),
            "PATH": f"{bin_folder}:{Path(sys.executable).parent}:{clean['PATH']}",
            "COLUMNS": "120",
            **settings,
        }

    def paste(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run lines as a person's shell does, but stop at the first that fails."""
        return subprocess.run(
            ["/bin/bash", "-e", "-u", "-c", text],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
