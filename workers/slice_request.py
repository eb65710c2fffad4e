"""A task's message in this worker, whose last event says what its slice came to.

Celery's own means: a task names its class of requests, and Celery and Flower take an event that
they do not know (task-handed_on) for a state of that name (HANDED_ON).
"""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request

from tasks.telemetry.slices import SUCCEEDED


class SliceRequest(Request):  # type: ignore[misc]  # celery ships no types
    """Tells what happened in place of that its task returned."""

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name
        """Send an event. In the thread of the task, at its end, with what its report says."""
        if type == SUCCEEDED and (text := self.task.report.text):
            type, fields["result"] = self.task.report.event, text  # noqa: A001 - as above
        super().send_event(type, **fields)
