"""Flower, as a user starts it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness.processes import begin
from harness.waiting import answers, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


def command(port: int, address: str = "127.0.0.1", *more: str) -> list[str]:
    where = [f"--port={port}", f"--address={address}", *more]
    return ["celery", "-A", "tasks", "flower", *where]


# How long Flower waits for workers' answers, all of them there or not; a stop waits for it too.
LOOK = {"FLOWER_INSPECT_TIMEOUT": "500"}  # ms


def environ(folder: Path, **variables: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FALLTHROUGH_", "FLOWER_"))}
    return {**clean, **LOOK, "FLOWER_DB": str(folder / "flower" / "db"), **variables}


@contextlib.contextmanager
def flower(folder: Path, *arguments: str, **variables: str) -> Iterator[str]:
    """Yield the URL of a Flower that runs; it gets the time to save its state.

    arguments: address to listen on, and more options.
    """
    port = free_port()
    with (folder / "flower.log").open("ab") as log, Path(os.devnull).open("rb") as nothing:
        # Its settings are found from any folder.
        words = command(port, *arguments)
        process = begin(words, environ(folder, **variables), folder, nothing, log, log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{url}/healthcheck"), 30, "Flower answers")
        yield url
    finally:
        process.terminate()
        process.wait(20)
