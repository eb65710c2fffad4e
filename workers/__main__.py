"""`python -m workers`: one worker process, set up by FALLTHROUGH_ variables."""

import logging
import os
import sys
import warnings

from celery.exceptions import SecurityWarning

from tasks.errors import FallthroughError
from tasks.settings import Settings
from tasks.telemetry import logs
from workers.process import WorkerProcess


def main() -> int:
    """Run a worker; return its exit status: 2 if it could not start."""
    try:
        settings = Settings.from_env(os.environ)
        logs.configure(settings, "worker")
        # A line per slice says nothing that Flower and the metrics do not say better.
        for chatty in ("httpx", "celery.redirected", "celery.worker.strategy", "celery.app.trace"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        # It warns root of pickled messages; ours are JSON, and nothing else is accepted.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        return WorkerProcess(settings).run()
    except FallthroughError as error:
        sys.stderr.write(f"worker: {error}\n")
    return 2


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    # Celery's pool threads are not ours to join; all that they did is done.
    os._exit(status)
