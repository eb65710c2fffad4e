"""What every long-running process of ours does with itself."""

from __future__ import annotations

import gc
import logging
import os
import socket
from typing import NoReturn

DIED = 70  # exit status (EX_SOFTWARE): without its loops a process only pretends to work
GARBAGE_THRESHOLDS = (20_000, 20, 20)


def listen(host: str, port: int) -> socket.socket:
    """Bind a port now, so that a taken one stops the start; raise OSError then."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening


def freeze_garbage() -> None:
    """Leave what is there now out of every look for garbage: it stays.

    What a request or a slice makes is let go by its own reference counts: looking through all of
    it every 700 allocations is a tenth of a busy process's time.
    """
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def end() -> NoReturn:
    """End this process at once, whatever its threads do."""
    logging.shutdown()
    os._exit(DIED)
