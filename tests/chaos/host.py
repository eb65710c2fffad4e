"""A full or slow disk, a clock that was set: a library to preload, compiled where there is a cc."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

_CONTROL = struct.Struct("iii")
SOURCE = Path(__file__).with_name("shim.c")


def compiled(folder: Path) -> Path | None:
    """Compile the library into a folder; None: there is no C compiler here."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "shim.so"
    switches = ("-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl")
    subprocess.run([compiler, *switches], check=True)
    return library


class Host:
    """What those who preload the library with this environ take for their disk and their clock."""

    def __init__(self, library: Path, control: Path) -> None:
        control.write_bytes(bytes(_CONTROL.size))
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), _CONTROL.size)
        self.environ = {"LD_PRELOAD": str(library), "CHAOS_HOST": str(control)}
        self.seconds_ahead = 0

    def fill(self) -> None:
        """Refuse every write from now on: no space left."""
        self._write(full=1)

    def slow_down(self, seconds: float) -> None:
        """Take so long for every fsync from now on."""
        self._write(milliseconds=int(seconds * 1000))

    def heal(self) -> None:
        """Have a disk with room, as fast as it is."""
        self._write()

    def set_clock(self, seconds_ahead: int) -> None:
        """Have the clock of the day be so far ahead from now on."""
        self.seconds_ahead = seconds_ahead
        self._write()

    def _write(self, full: int = 0, milliseconds: int = 0) -> None:
        self._control[:] = _CONTROL.pack(full, milliseconds, self.seconds_ahead)
