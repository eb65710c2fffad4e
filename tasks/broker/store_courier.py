"""What brings messages to a broker that is the store: by the store's own trips.

Celery and kombu take more than half a millisecond of CPU for a message, and a thread, as they may
block. Here they make one message of each route, and what differs from it to the next is filled in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kombu.connection import Connection as BrokerConnection
from kombu.transport import virtual

from tasks.broker.chains import Parcel, shown
from tasks.errors import PublishError, StoreUnavailable
from tasks.records.jobs import Ref

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.broker.chains import Chains, Route
    from tasks.store.connection import Connection

UNHEARD_SECONDS = 1.0  # for how long no event is published after one that nobody listened to

# What stands in the message of which the others are made, as JSON has it.
ID, TAG, BODY, CLOCK, TIME = '"its-id"', '"its-tag"', '"its-body"', '"its-clock"', '"its-time"'
QUEUE = "its-queue"
PAIRS = [("its-ref", 0)]
ARGUMENT, SHOWN = json.dumps(PAIRS), json.dumps(shown(PAIRS))


class _Channel(virtual.Channel):
    """Keeps what is published, as kombu's channel of Redis would have written it."""

    supports_fanout = True
    do_restore = False

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.connection.kept.append((queue, message))

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **_: Any) -> None:
        self.connection.kept.append((f"{exchange}/{routing_key}", message))

    def _new_queue(self, *_: Any, **__: Any) -> None: ...

    def _queue_bind(self, *_: Any) -> None: ...

    def _has_queue(self, *_: Any, **__: Any) -> bool:
        return True

    def _size(self, *_: Any) -> int:
        return 0

    def _next_delivery_tag(self) -> Any:
        return json.loads(TAG)


class _Transport(virtual.Transport):
    Channel = _Channel
    driver_type = driver_name = "redis"
    implements = virtual.Transport.implements.extend(
        exchange_type=frozenset({"direct", "topic", "fanout"})
    )

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)  # type: ignore[no-untyped-call]
        self.state = virtual.BrokerState()  # type: ignore[no-untyped-call]
        self.kept: list[tuple[str, dict[str, Any]]] = []


class _Form:
    """A text with blanks."""

    def __init__(self, text: str, *blanks: str) -> None:
        self._parts = re.split(f"({'|'.join(map(re.escape, blanks))})", text)

    def filled(self, values: Mapping[str, str]) -> str:
        """Return the text with these values in place of the blanks."""
        return "".join([values.get(part, part) for part in self._parts])


class Template:
    """The messages of one route, and their events."""

    def __init__(self, chains: Chains, route: Route) -> None:
        connection: Any = BrokerConnection(transport=_Transport)  # type: ignore[no-untyped-call]
        with connection:
            producer = chains.app.amqp.Producer(connection)
            chains.publish(Parcel(route, [Ref(*PAIRS[0])]), producer, task_id=json.loads(ID))
            (self.queue, message), (self.channel, event) = connection.transport.kept
        message["properties"]["delivery_info"]["routing_key"] = QUEUE
        self._body = _Form(_unpacked(message), ARGUMENT)
        blanks = ID, TAG, SHOWN, BODY
        self._message = [_Form(half, *blanks) for half in _sealed(message).split(QUEUE)]
        told = json.loads(_unpacked(event))
        told |= {"clock": json.loads(CLOCK), "timestamp": json.loads(TIME)}
        self._told = _Form(json.dumps(told), ID, SHOWN, CLOCK, TIME)
        self._event = _Form(_sealed(event), TAG, BODY)

    def around(self, its: Mapping[str, str], pairs: list[tuple[Any, ...]]) -> tuple[str, str]:
        """Return what goes into a queue, before and behind the queue's name.

        its: what stands for ID and SHOWN.
        """
        body = self._body.filled({ARGUMENT: json.dumps(pairs)})
        values = {**its, TAG: new_id(), BODY: _packed(body)}
        before, behind = self._message
        return before.filled(values), behind.filled(values)

    def event(self, its: Mapping[str, str], clock: int) -> str:
        """Return what those are told who listen. clock: Celery's."""
        told = self._told.filled({**its, CLOCK: str(clock), TIME: repr(time.time())})
        return self._event.filled({TAG: new_id(), BODY: _packed(told)})


def new_id() -> str:
    """Return an id as Celery and kombu make them, as JSON has it."""
    return f'"{uuid4()}"'


def _sealed(message: dict[str, Any]) -> str:
    return json.dumps(message | {"body": json.loads(BODY)})


def _unpacked(message: dict[str, Any]) -> str:
    return b64decode(message["body"]).decode()


def _packed(body: str) -> str:
    return f'"{b64encode(body.encode()).decode()}"'


class Letter:
    """The message of a job that is to be recorded. queue: where it came to lie; "": nowhere."""

    def __init__(self, template: Template, parcel: Parcel) -> None:
        self.template, self.parcel, self.its = template, parcel, _its(parcel)
        self.queue = ""

    def around(self) -> tuple[str, str]:
        """Return its text, before and behind the name of the queue."""
        return self.template.around(self.its, self.parcel.pairs)


def _its(parcel: Parcel) -> dict[str, str]:
    return {ID: new_id(), SHOWN: json.dumps(shown(parcel.pairs))}


class StoreCourier:
    """Puts messages into their queues as kombu does, and tells Flower as Celery does."""

    def __init__(self, chains: Chains, store: Connection) -> None:
        self._chains, self._store = chains, store
        self._templates: dict[Route, Template] = {}
        self._unheard_until = 0.0

    def start(self) -> None:
        """Be ready: the store's connection is."""

    def stop(self) -> None:
        """End: who opened the store closes it."""

    async def send(self, parcels: Sequence[Parcel]) -> None:
        """Have the broker take messages, or raise PublishError: then it may have taken some."""
        heard = time.monotonic() >= self._unheard_until
        messages: list[tuple[str, str, str]] = []
        events: list[tuple[str, str, str]] = []
        for parcel in parcels:
            template = self._template(parcel.route)
            its = _its(parcel)
            text = template.queue.join(template.around(its, parcel.pairs))
            messages.append(("LPUSH", template.queue, text))
            if heard:
                events.append(self._event(template, its))
        if events:
            await asyncio.gather(self._asked(messages), self._tell(events))
        else:
            await self._asked(messages)

    def letter(self, parcel: Parcel) -> Letter:
        """Return the message of a job that is to be recorded."""
        return Letter(self._template(parcel.route), parcel)

    def sent(self, letter: Letter) -> None:
        """Tell who listens of a message that came with its record."""
        if time.monotonic() >= self._unheard_until:
            template = self._template(letter.parcel.route._replace(queue=letter.queue))
            event = self._event(template, letter.its)
            self._telling = asyncio.create_task(self._tell([event]))

    async def _tell(self, events: Sequence[tuple[str, str, str]]) -> None:
        listeners: list[int] = []
        with contextlib.suppress(PublishError):  # they are events: nobody waits for them
            listeners = await self._asked(events)
        if not any(listeners):
            self._unheard_until = time.monotonic() + UNHEARD_SECONDS

    def _event(self, template: Template, its: Mapping[str, str]) -> tuple[str, str, str]:
        told = template.event(its, self._chains.app.clock.forward())
        return "PUBLISH", f"/{self._store.database}.{template.channel}", told

    async def depths(self, queues: Sequence[str]) -> list[int]:
        """Return how many messages each queue holds; raise PublishError if nobody says."""
        return await self._asked([("LLEN", queue) for queue in queues])

    async def _asked(self, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        try:
            return await self._store.outside(commands)
        except StoreUnavailable as error:
            message = f"the broker did not answer: {type(error.__cause__).__name__}"
            raise PublishError(message) from error

    def _template(self, route: Route) -> Template:
        known = self._templates.get(route)
        if known is None:
            known = self._templates[route] = Template(self._chains, route)
        return known
