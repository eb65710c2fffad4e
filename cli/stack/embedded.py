"""A stack in a data folder: locked, planned, supervised."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from cli.stack.parts import Layout, UpOptions, plan
from cli.stack.running import LOCK
from cli.stack.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tasks.settings import Settings


OWN_FOLDERS = ("valkey", "files", "logs")


class FolderError(Exception):
    """Another stack runs on this data folder, or it cannot be one."""


@contextlib.contextmanager
def embedded_stack(
    settings: Settings,
    user_variables: frozenset[str],
    options: UpOptions,
    data: Path,
    say: Callable[[str], None],
) -> Iterator[tuple[Supervisor, Layout]]:
    """Yield a supervisor that has started nothing yet; stops everything at the end.

    user_variables: names of the FALLTHROUGH_ variables that the user set.
    Raises FolderError or PortTakenError before anything starts.
    """
    os.umask(0o077)  # what is asked and answered lies here: it is nobody else's on this machine
    try:
        data = data.resolve()
        for folder in (data / name for name in OWN_FOLDERS):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)  # it may be there already
        lock_file = (data / LOCK).open("w")
    except (OSError, RuntimeError) as error:  # a link in a circle is one of the two
        raise _unusable(data, error) from None
    with lock_file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"another stack runs in {data}: stop it, or choose another with --data-dir"
            raise FolderError(message) from None
        try:
            layout = plan(settings, user_variables, options, data)
        except OSError as error:
            raise _unusable(data, error) from None
        if layout.flower_fault:
            say(f"Flower is off, the others go on without it: {layout.flower_fault}")
        supervisor = Supervisor(layout.parts, data / "logs", say)
        try:
            yield supervisor, layout
        finally:
            supervisor.stop()


def _unusable(data: Path, error: Exception) -> FolderError:
    reason = getattr(error, "strerror", None) or error
    return FolderError(f"--data-dir: {data} cannot be used: {reason}; choose another")
