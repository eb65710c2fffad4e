"""What brings messages to the broker: over kombu, from a thread of its own.

Where the broker is the store, `store_courier` does, with less.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from kombu.exceptions import BatchPublishError

from tasks.broker.thread import BrokerThread
from tasks.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kombu.messaging import Producer

    from tasks.broker.chains import Chains, Parcel

PUBLISH_SECONDS = 8.0  # how long a publish may take

log = logging.getLogger(__name__)


class Courier(Protocol):
    """Brings messages to the broker; belongs to one event loop."""

    def start(self) -> None:
        """Be ready."""

    def stop(self) -> None:
        """Bring what was given before, and end."""

    async def send(self, parcels: Sequence[Parcel]) -> None:
        """Have the broker take messages, or raise PublishError: then it may have taken some."""

    async def depths(self, queues: Sequence[str]) -> list[int]:
        """Return how many messages each queue holds; raise PublishError if nobody says."""


class KombuCourier:
    """One thread that publishes."""

    def __init__(self, chains: Chains) -> None:
        self._chains = chains
        self._thread = BrokerThread(chains.app)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what was given before, then end the thread."""
        self._thread.stop(PUBLISH_SECONDS)

    async def send(self, parcels: Sequence[Parcel]) -> None:
        """Have the broker take messages; in one round trip where it can."""
        await self._call(lambda producer: self._send_all(parcels, producer))

    async def depths(self, queues: Sequence[str]) -> list[int]:
        """Return how many messages each queue holds."""
        depths: list[int] = await self._call(lambda producer: self._depths(queues, producer))
        return depths

    async def _call(self, work: Callable[[Any], Any]) -> Any:
        """Have the thread do work; raise PublishError if it takes too long."""
        if self._thread.stuck(PUBLISH_SECONDS):
            self._replace_thread()  # who asked for that call has gone away before
        call = self._thread.call(work)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(call), PUBLISH_SECONDS)
        except TimeoutError:
            if call.running():
                self._replace_thread()
            message = f"the broker did not take the job within {PUBLISH_SECONDS:g} s"
            raise PublishError(message) from None

    def _replace_thread(self) -> None:
        log.warning("a call to the broker does not return: another thread goes on")
        self._thread = self._thread.replace()

    def _send_all(self, parcels: Sequence[Parcel], producer: Any) -> None:
        try:
            with producer.batch():
                for parcel in parcels:
                    self._chains.publish(parcel, producer)
        except BatchPublishError as error:
            raise (error.__cause__ or error) from None

    def _depths(self, names: Sequence[str], producer: Producer) -> list[int]:
        queues: Mapping[str, Any] = self._chains.app.amqp.queues
        channel = producer.channel
        return [queues[name](channel).queue_declare(passive=False).message_count for name in names]
