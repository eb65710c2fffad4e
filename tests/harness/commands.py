"""`fallthrough` as a process: commands, and a stack that is up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from harness import flower, processes

FALLTHROUGH = [sys.executable, "-P", "-m", "cli.main"]  # -P: as the installed command


def environ(**settings):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FALLTHROUGH_")}
    return {**clean, **flower.LOOK, "COLUMNS": "120", **settings}


def run(*arguments, stdin="", **settings):
    return processes.python("cli.main", *arguments, environ=environ(**settings), stdin=stdin)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def threads(pid):
    """How many threads a process has: a command that shows progress has more than one."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


class Up:
    """A running `fallthrough up --json`."""

    def __init__(self, data, *options, cwd=None, **settings):
        self.errors = (data.parent / f"{data.name}.err").open("w+b")
        self.process = subprocess.Popen(
            [
                *FALLTHROUGH,
                *("up", "--json", "--port", "0", "--flower-port", "0"),
                *("--data-dir", str(data), *options),
            ],
            env=environ(**settings),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        line = self.process.stdout.readline()
        assert line, self.said
        self.told = json.loads(line)
        self.url = self.told["api_url"]
        self.pids = {part["part"]: part["pid"] for part in self.told["parts"]}

    @property
    def said(self):
        return Path(self.errors.name).read_text()

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(60)
        self.process.stdout.close()
        self.errors.close()
        return status
