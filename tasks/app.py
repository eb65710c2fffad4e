"""The Celery application: queues, task names, and how messages are kept. No connection yet."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from celery import Celery, Task
from kombu.connection import Connection
from kombu.entity import Queue as BrokerQueue

from tasks.broker import transport as broker
from tasks.errors import SettingsError
from tasks.records.batches import PHASES
from tasks.records.jobs import Queue, Ref
from tasks.records.order import order_of
from tasks.setting_kinds import TIER_NAME
from tasks.telemetry.slices import SliceReport

if TYPE_CHECKING:
    from tasks.settings import Settings

TASK_PREFIX = "tasks."


class TierTask(Task):  # type: ignore[misc]  # celery ships no types
    """Answers the jobs that its tier can, and hands on only those that it could not."""

    abstract = True
    tier: str
    Request = "workers.slice_request:SliceRequest"  # of a worker alone: its events
    _run_here = threading.local()

    @property
    def report(self) -> SliceReport:
        """What the run of this thread did with its slice."""
        report: SliceReport = self._run_here.report
        return report

    def run(self, pairs: list[list[Any]]) -> list[Ref]:
        """Take [id, attempt] pairs; return those that the next tier of the chain is to answer."""
        queue = (self.request.delivery_info or {}).get("routing_key") or Queue.INTERACTIVE.value
        refs = [Ref(str(job_id), int(attempt)) for job_id, attempt in pairs]
        chain = self.request.chain or ()
        following = chain[-1]["task"].removeprefix(TASK_PREFIX) if chain else ""
        self._run_here.report = report = SliceReport()
        left: list[Ref] = self.app.runner(self.tier, refs, queue, following, report)
        if not left:
            self.request.chain = None
        return left


def check_broker(settings: Settings) -> None:
    """Raise SettingsError for a broker's URL that its client cannot use; opens no connection."""
    broker.use()
    url = settings.effective_broker_url
    try:
        _ = Connection(url).transport  # type: ignore[no-untyped-call]
        fit = all(map(broker.takes_options, url.split(";")))
    except (KeyError, TypeError, ValueError):
        fit = False
    if not fit:
        name = "BROKER_URL" if settings.broker_url else "REDIS_URL"
        message = (
            f"FALLTHROUGH_{name}: Celery cannot use it as its broker: it may neither begin with "
            "unix://, nor have a ; in its password (that is %3B), nor options (after a ?) but "
            "login_method of RabbitMQ, and those of TLS for rediss:// and amqps://"
        )
        raise SettingsError(message)


def create_app(settings: Settings) -> Celery:
    """Return the application for these settings; workers set its `runner` before they start.

    Raises SettingsError for a broker that cannot be one.
    """
    check_broker(settings)
    _forget_other_projects()
    app = Celery("fallthrough", broker=settings.effective_broker_url, set_as_current=True)
    amqp = settings.effective_broker_url.startswith("amqp")
    arguments = {"x-queue-type": "quorum"} if amqp else None
    new_queue = broker.LimitedQueue if amqp else BrokerQueue
    app.conf.update(
        task_queues=[
            new_queue(q.value, routing_key=q.value, queue_arguments=arguments)  # type: ignore[no-untyped-call]
            for q in Queue
        ],
        task_default_queue=Queue.INTERACTIVE.value,
        task_create_missing_queues=False,
        task_serializer="json",
        accept_content=["json"],
        # The record is the truth: no result backend, and a message is gone only when its slice is.
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        # True would cancel every running job when the broker restarts, and lose it.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_use_ssl=broker.tls_options(settings.effective_broker_url),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2,
        broker_transport_options=dict(_AMQP_TRANSPORT if amqp else _REDIS_TRANSPORT),
        # A consumer whose route is lost without a word knows after twice as long.
        broker_heartbeat=HEARTBEAT_SECONDS,
        # A queue that cannot be declared is waited for, and told, as a broker that is away.
        broker_channel_error_retry=True,
        # Flower's view: arguments are ids.
        worker_send_task_events=True,
        task_send_sent_event=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_proc_alive_timeout=30,
    )
    app.runner = None
    for tier in (*order_of(settings.model_tiers), *PHASES):
        register_tier(app, tier)
    return app


def register_tier(app: Celery, tier: str) -> None:
    """Have an app know a tier's task."""
    app.register_task(type(f"{tier.title()}Task", (TierTask,), _task(tier))())


def tier_of(task: str) -> str:
    """Return the tier whose task has this name; "" if none can have it."""
    name = task.removeprefix(TASK_PREFIX)
    return name if name != task and TIER_NAME.fullmatch(name) else ""


def _forget_other_projects() -> None:
    # Celery would take these before what it is told: another project's broker, pool, or loader.
    # And Flower would take what Kubernetes sets for a Service of its name for a port.
    for name, value in list(os.environ.items()):
        if name.startswith("CELERY_") or (name == "FLOWER_PORT" and "://" in value):
            del os.environ[name]


HEARTBEAT_SECONDS = 3  # of RabbitMQ's consumers; the publisher's thread has its own

# kombu's defaults wait for ever on a broker that hangs.
_AMQP_TRANSPORT = {
    "confirm_publish": True,  # a message is sent when a quorum has it, not when it is written
    "read_timeout": 3,
    "write_timeout": 3,
}
# A worker whose route is lost without a word notices it after the second that its pop waits and up
# to two intervals of checks.
_REDIS_TRANSPORT = {
    "socket_timeout": 3,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 2,
}


def _task(tier: str) -> dict[str, Any]:
    return {"name": f"{TASK_PREFIX}{tier}", "tier": tier, "__module__": __name__, "abstract": False}
