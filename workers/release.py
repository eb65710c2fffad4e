"""What a worker that stops says and takes: its last events, and nothing more from the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.worker.consumer.consumer import ignore_errors

from tasks.broker.transport import Channel

if TYPE_CHECKING:
    from workers.pulse import Pulse


def release_step(pulse: Pulse) -> type[Any]:
    """Return the consumer's bootstep that lets go of the queues when the worker drains.

    Celery would leave its last BRPOP open until the last running task ends: what this worker
    hands back, it would pop itself, and keep for as long as the drain takes. And it would end with
    events that wait to be published.
    """

    class ReleaseStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery ships no types
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def shutdown(self, consumer: Any) -> None:
            if consumer.event_dispatcher:  # what the last tasks told
                ignore_errors(consumer, consumer.event_dispatcher.flush)

        def stop(self, consumer: Any) -> None:
            if pulse.draining and consumer.task_consumer:
                ignore_errors(consumer, consumer.task_consumer.cancel)
                channel = consumer.task_consumer.channel
                if isinstance(channel, Channel):
                    channel.let_go()

    return ReleaseStep
