"""By which signals a worker stops: Celery's own handlers end it with 1, or in a traceback."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from celery.apps.worker import install_cry_handler, install_worker_term_handler

if TYPE_CHECKING:
    from celery import Celery

STOPS = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP")
HURRIES = {"SIGINT": 2, "SIGQUIT": 1}  # how often each has come when nothing is waited for any more


def worker_class(app: Celery) -> Any:
    """Return the class of an app's workers.

    Celery tells of a Ctrl-C by its exit status, and at the next one it cancels running tasks, which
    those in threads cannot be. SIGHUP, of a terminal that is closed, asks like SIGTERM, unless it
    is ignored, as by nohup.
    """

    class Worker(app.Worker):  # type: ignore[misc]  # celery ships no types
        def install_platform_tweaks(self, worker: Any) -> None:
            if self.app.IS_macOS:
                self.macOS_proxy_detection_workaround()
            for name in STOPS:
                if name == "SIGHUP" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
                    continue
                install_worker_term_handler(worker, sig=name, how="Warm", callback=None, exitcode=0)
            install_cry_handler()

    return Worker
