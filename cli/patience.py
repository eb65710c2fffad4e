"""An API that is away for a while, as while it restarts: it is asked again."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

from cli.client import ApiAwayError, ApiBusyError

if TYPE_CHECKING:
    from collections.abc import Callable

AGAIN_SECONDS = 0.5
AWAY_SECONDS = 90.0  # that an API which is away is asked again

Answer = TypeVar("Answer")


class Patience:
    """Asks again where the API is away. Threads share it: one that is answered speaks for all."""

    def __init__(self, say: Callable[[str], None], meanwhile: str) -> None:
        """say: is told once, each time that the API is away. meanwhile: what goes on."""
        self._say, self._meanwhile = say, meanwhile
        self._lock = threading.Lock()
        self._until: float | None = None  # while nobody is answered
        self._told = False

    def ask(self, call: Callable[[], Answer]) -> Answer:
        """Return what a call returns; raises ApiAwayError after AWAY_SECONDS without an answer."""
        while True:
            try:
                answer = call()
            except ApiAwayError as error:
                if self._gives_up(error):
                    raise
            else:
                with self._lock:
                    self._until, self._told = None, False
                return answer
            time.sleep(AGAIN_SECONDS)

    def _gives_up(self, error: ApiAwayError) -> bool:
        with self._lock:
            now = time.monotonic()
            if self._until is None:
                self._until = now + AWAY_SECONDS
            # Who is turned away because others of ours are served has nothing to tell.
            if not self._told and not isinstance(error, ApiBusyError):
                self._told = True
                self._say(f"{error}\n… {self._meanwhile}; trying again")
            return now > self._until
