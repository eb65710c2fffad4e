"""Logs: JSON lines, or text for people at a terminal; what is about a job says which, and its tier.

Prompts and answers are never logged.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.settings import Settings

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s%(about)s"
OURS = ("api", "circuit_breaker", "fallback_chain", "tasks", "workers")
ABOUT = ("job_id", "tier", "request_id")
NAMES = {"levelname": "level", "name": "logger", "message": "message"}

about: ContextVar[dict[str, str] | None] = ContextVar("about", default=None)
"""Of what the current task works on: ABOUT, as far as it is known."""


def configure(settings: Settings, part: str) -> None:
    """Send the process's log to its standard error. part: api, worker."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    chosen = settings.log_format
    if chosen == "auto":
        chosen = "text" if sys.stderr.isatty() else "json"
    if chosen == "json":
        handler.setFormatter(_json(part))
    elif sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415 - only for people
        from rich.logging import RichHandler  # noqa: PLC0415 - as above

        console = Console(stderr=True)
        handler = RichHandler(console=console, show_path=False, rich_tracebacks=False)
        handler.setFormatter(logging.Formatter("%(message)s%(about)s", datefmt="%X"))
    else:
        handler.setFormatter(logging.Formatter(TEXT))
    handler.addFilter(_tell)
    # Libraries at DEBUG tell more than a log should hold: keys, bodies.
    logging.basicConfig(level="INFO", handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(settings.log_level)
    if settings.log_level != "DEBUG":
        logging.getLogger().setLevel(settings.log_level)


def _json(part: str) -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415 - text needs none

    return JsonFormatter(
        list(NAMES),
        rename_fields=NAMES,
        static_fields={"part": part},
        reserved_attrs=[*RESERVED],
        timestamp="time",  # ISO 8601, UTC
    )


def _tell(record: logging.LogRecord) -> bool:
    context = about.get() or {}
    for name, value in context.items():
        if not hasattr(record, name):
            setattr(record, name, value)
    shown = {name: getattr(record, name) for name in ABOUT if hasattr(record, name)}
    record.about = "".join(f" {name}={value}" for name, value in shown.items())
    return True


# What a record has besides what we tell of it.
RESERVED = (*logging.makeLogRecord({}).__dict__, "message", "asctime", "about")
