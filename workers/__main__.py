"""`python -m workers`: one worker process, set up by FALLTHROUGH_ variables."""

import logging
import os
import sys

from tasks.errors import FallthroughError
from tasks.settings import Settings
from workers.process import WorkerProcess


def main() -> int:
    """Run a worker; return its exit status: 2 if it could not start."""
    try:
        settings = Settings.from_env(os.environ)
        logging.basicConfig(
            level=settings.log_level,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        for chatty in ("httpx", "celery.redirected", "celery.worker.strategy"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        return WorkerProcess(settings).run()
    except FallthroughError as error:
        sys.stderr.write(f"worker: {error}\n")
    except OSError as error:
        sys.stderr.write(f"worker: FALLTHROUGH_WORKER_PORT: {error}\n")
    return 2


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    # Celery's pool threads are not ours to join; all that they did is done.
    os._exit(status)
