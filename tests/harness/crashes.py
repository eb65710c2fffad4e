"""What goes wrong in a worker as it writes to the storage: it dies, it raises; so many times.

A worker that is started with this has the fault that lies in its folder, as it is then.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from harness.processes import Process

# What Python runs before all else: it stands on the path of the worker alone.
SITE = """
import contextlib, json, os, pathlib, signal
from tasks.storage import Storage

FOLDER = pathlib.Path(__file__).parent
writing = Storage.writing

@contextlib.contextmanager
def writing_or_not(self, name):
    fault = json.loads((FOLDER / "fault.json").read_text())
    met = FOLDER / "met"
    if name.startswith(fault["where"]) and len(met.read_text()) < fault["times"]:
        with met.open("a") as file:
            file.write("x")
        if fault["what"] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"defect": ValueError, "away": OSError}[fault["what"]]("injected")
    with writing(self, name) as file:
        yield file

Storage.writing = writing_or_not
"""


class Crashes:
    """The fault of one worker."""

    def __init__(self, folder: Path, worker: Process) -> None:
        folder.mkdir()
        self._fault, self._met = folder / "fault.json", folder / "met"
        (folder / "sitecustomize.py").write_text(SITE)
        worker.environ["PYTHONPATH"] = str(folder)

    def put(self, where: str, what: str, times: int) -> None:
        """Have writing to names that begin so go wrong. what: killed, defect, away."""
        self._fault.write_text(json.dumps({"where": where, "what": what, "times": times}))
        self._met.write_text("")

    @property
    def met(self) -> int:
        """How often it went wrong."""
        return len(self._met.read_text())
