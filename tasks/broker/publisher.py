"""Puts jobs on the broker, from a thread of its own: kombu blocks, the event loop must not.

What is asked while a publish is in flight shares the next message (group commit): no timer, no
delay when idle, and a burst of lone requests does not cost one Celery chain each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import chain
from kombu.exceptions import BatchPublishError

from tasks.errors import PublishError
from tasks.records.batches import PHASES, UNIT
from tasks.records.jobs import TIERS, Pairs
from tasks.telemetry.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from celery import Celery
    from kombu.messaging import Producer

SLICE = {"interactive": 32, "batch": 32, "phases": 1}  # jobs in one message, at most
LONGEST_SHOWN = 1024  # characters of a message's ids that Flower shows
PUBLISH_SECONDS = 8.0  # how long an asker waits

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Request:
    route: tuple[str, str]  # first tier, queue
    pairs: Pairs
    done: asyncio.Future[None]


def chain_from(app: Celery, tier: str, configured: Sequence[str]) -> list[str]:
    """Return the names of the tasks from a tier on, leaving out tiers that are not set up."""
    if tier in PHASES:
        return [app.tasks[f"tasks.{tier}"].name]
    rest = TIERS[TIERS.index(tier) + 1 :]
    return [app.tasks[f"tasks.{t}"].name for t in (tier, *(t for t in rest if t in configured))]


class Publisher:
    """One thread that publishes, asked by one event loop: whatever waits crosses over together."""

    def __init__(
        self, app: Celery, configured: Iterable[str], observer: Observer | None = None
    ) -> None:
        self._app = app
        self._observer = observer or Observer()
        self._configured = (*configured, "cache")
        self._chains: dict[tuple[str, str], Any] = {}
        self._asked: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: list[_Request] = []
        self._flight: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)

    @property
    def first_tier(self) -> str:
        """Where a chain begins: the first tier that is set up."""
        return next(tier for tier in TIERS if tier in self._configured)

    def next_tier(self, tier: str) -> str:
        """Return the tier after this one; the cache comes last and has none after it."""
        rest = TIERS[TIERS.index(tier) + 1 :]
        return next(t for t in rest if t in self._configured)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what was asked before, then end the thread."""
        self._asked.put(None)
        self._thread.join(PUBLISH_SECONDS)

    async def publish(self, tier: str, queue_name: str, pairs: Pairs) -> None:
        """Publish jobs as chains that begin at tier; raise PublishError if the broker does not."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request((tier, queue_name), pairs, done))
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly())
        await done

    async def _fly(self) -> None:
        try:
            while self._waiting:
                requests, self._waiting = self._waiting, []
                sent: Future[list[PublishError | None]] = Future()
                self._asked.put(lambda r=requests, s=sent: _settle(s, lambda: self._send_all(r)))  # type: ignore[misc]
                try:
                    failures = await _bounded(sent)
                except PublishError as error:
                    requests += self._waiting  # they have waited as long, and for the same broker
                    self._waiting = []
                    failures = [error] * len(requests)
                for request, failure in zip(requests, failures, strict=True):
                    if request.done.done():
                        continue  # its asker went away
                    if failure:
                        request.done.set_exception(failure)
                    else:
                        request.done.set_result(None)
        finally:
            self._flight = None

    async def dispatch(self, dispatches: Iterable[tuple[str, int, str, str]]) -> None:
        """Publish what a transition gave out: (id, attempt, tier, queue).

        The records say "dispatched" already: what the broker does not take, the sweeper finds.
        """
        routes: dict[tuple[str, str], Pairs] = {}
        for name, attempt, tier, queue_name in dispatches:
            routes.setdefault((tier, queue_name), []).append((name, attempt))
        for (tier, queue_name), pairs in routes.items():
            try:
                await self.publish(tier, queue_name, pairs)
            except PublishError as error:
                log.warning("%d records wait for the sweeper: %s", len(pairs), error)

    async def empty(self, queue_names: Iterable[str]) -> dict[str, bool]:
        """Return for each queue whether the broker holds no message of it."""
        done: Future[dict[str, bool]] = Future()
        names = list(queue_names)
        self._asked.put(lambda: _settle(done, lambda: self._depths(names)))
        depths: dict[str, bool] = await _bounded(done)
        return depths

    async def check(self) -> None:
        """Raise PublishError unless the broker answers."""
        await self.empty(["interactive"])

    def _work(self) -> None:
        while (work := self._asked.get()) is not None:
            work()

    def _send_all(self, requests: list[_Request]) -> list[PublishError | None]:
        """Send what was asked, grouped, in one round trip; return each request's failure."""
        failure = None
        try:
            with self._app.producer_or_acquire() as producer, producer.batch():
                for message in _group(requests):
                    self._send(message, producer)
        except Exception as error:  # noqa: BLE001 - kombu raises each transport's own
            cause = error.__cause__ if isinstance(error, BatchPublishError) else None
            name = type(cause or error).__name__
            log.warning("the broker did not take a message: %s", name)
            failure = PublishError(f"the broker did not take the job: {name}")
        return [failure] * len(requests)

    def _send(self, message: list[_Request], producer: Producer) -> None:
        tier, queue_name = message[0].route
        pairs = [pair for request in message for pair in request.pairs]
        size = SLICE[queue_name]
        # A unit is a slice already.
        slices: list[Pairs] = [[pair] for pair in pairs if pair[0].startswith(UNIT)]
        jobs = [pair for pair in pairs if not pair[0].startswith(UNIT)]
        slices += [jobs[i : i + size] for i in range(0, len(jobs), size)]
        first, *rest = self._chain(tier, queue_name).tasks
        # What `chain.apply_async` does, without copying every signature for every message.
        rest.reverse()
        for part in slices:
            shown = f"({part},)"[:LONGEST_SHOWN]
            first.apply_async((part,), chain=rest, producer=producer, retry=False, argsrepr=shown)
            self._observer.published(len(part))

    def _chain(self, tier: str, queue_name: str) -> Any:
        made = self._chains.get((tier, queue_name))
        if made is None:
            names = chain_from(self._app, tier, self._configured)
            steps = [self._app.tasks[name].s().set(queue=queue_name) for name in names]
            made = self._chains[tier, queue_name] = chain(*steps, app=self._app)
        return made

    def _depths(self, names: Iterable[str]) -> dict[str, bool]:
        with self._app.connection_for_write() as connection:
            channel = connection.default_channel
            queues: Mapping[str, Any] = self._app.amqp.queues
            return {
                name: queues[name](channel).queue_declare(passive=False).message_count == 0
                for name in names
            }


def _group(requests: list[_Request]) -> list[list[_Request]]:
    """Put requests for one route together, up to a slice; a larger one travels alone."""
    groups: list[list[_Request]] = []
    open_groups: dict[tuple[str, str], list[_Request]] = {}
    for request in requests:
        group = open_groups.get(request.route)
        held = sum(len(r.pairs) for r in group) if group else 0
        if group is None or held + len(request.pairs) > SLICE[request.route[1]]:
            group = open_groups[request.route] = []
            groups.append(group)
        group.append(request)
    return groups


def _settle(done: Future[Any], work: Callable[[], Any]) -> None:
    # The asker may have given up: then there is nobody to tell.
    with contextlib.suppress(Exception):
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - kombu raises each transport's own
            done.set_exception(PublishError(f"the broker did not answer: {type(error).__name__}"))
        else:
            done.set_result(result)


async def _bounded(done: Future[Any]) -> Any:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(done), PUBLISH_SECONDS)
    except TimeoutError:
        message = f"the broker did not take the job within {PUBLISH_SECONDS:g} s"
        raise PublishError(message) from None
