"""An API that is away for a while, as while it restarts: it is asked again."""

from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from cli.client import ApiAwayError, ApiBusyError, ApiCutOffError, ApiUnderWayError

if TYPE_CHECKING:
    from collections.abc import Callable

AGAIN_SECONDS = 0.5
AWAY_SECONDS = 90.0  # that an API which is away is asked again
UNKNOWN_SECONDS = 5.0  # the same, of one that has not answered yet, and hangs up
BUSY_SECONDS = 5.0  # after which it is told that it turns all calls away

Answer = TypeVar("Answer")


class Patience:
    """Asks again where the API is away. Threads share it: one that is answered speaks for all."""

    def __init__(
        self, say: Callable[[str], None], meanwhile: str, *, is_known: bool = True
    ) -> None:
        """say: is told once, each time that the API is away. meanwhile: what goes on.

        is_known: it has answered before. One that has not may be none: it is given up at once, or
        soon if a call may have come through.
        """
        self._say, self._meanwhile, self._is_known = say, meanwhile, is_known
        self._lock = threading.Lock()
        self._since: float | None = None  # while nobody is answered
        self._told = False

    def once(self, create: Callable[[str], Answer]) -> Answer:
        """Return what a call that creates something returns: sent again, it creates nothing more.

        create: is given the key that says so. Raises as ask does.
        """
        key = secrets.token_hex(16)
        return self.ask(lambda: create(key))

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
                    self._since, self._told, self._is_known = None, False, True
                return answer
            time.sleep(AGAIN_SECONDS)

    def _gives_up(self, error: ApiAwayError) -> bool:
        with self._lock:
            now = time.monotonic()
            if self._since is None:
                self._since = now
            seconds = now - self._since
            self._is_known |= isinstance(error, ApiUnderWayError)  # it has taken the first call
            if not (self._is_known or isinstance(error, ApiCutOffError)):
                return True
            # Who is turned away because others of ours are served has nothing to tell.
            if not self._told and (seconds > BUSY_SECONDS or not isinstance(error, ApiBusyError)):
                self._told = True
                self._say(f"{error}\n… {self._meanwhile}; trying again")
            return seconds > (AWAY_SECONDS if self._is_known else UNKNOWN_SECONDS)
