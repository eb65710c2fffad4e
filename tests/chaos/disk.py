"""A disk that is full or slow: a library that processes preload, compiled where there is a cc."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

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


class Disk:
    """What those who preload the library with this environ take for their disk."""

    def __init__(self, library: Path, control: Path) -> None:
        control.write_bytes(struct.pack("ii", 0, 0))
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), 8)
        self.environ = {"LD_PRELOAD": str(library), "CHAOS_DISK": str(control)}

    def fill(self) -> None:
        """Refuse every write from now on: no space left."""
        self._control[:] = struct.pack("ii", 1, 0)

    def slow_down(self, seconds: float) -> None:
        """Take so long for every fsync from now on."""
        self._control[:] = struct.pack("ii", 0, int(seconds * 1000))

    def heal(self) -> None:
        self._control[:] = struct.pack("ii", 0, 0)
