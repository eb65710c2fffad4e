"""Which jobs share a message, and the chain that it starts."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tasks.app import create_app
from tasks.broker.publisher import Parcel, Publisher, Route, _group, chain_from
from tasks.records.jobs import Ref
from tasks.settings import Settings


@pytest.fixture
def app():
    return create_app(Settings(broker_url="memory://"))


def parcel(route, number):
    return Parcel(route, [Ref(f"job_{n}", 0) for n in range(number)])


GPU, BULK = Route("gpu", "interactive"), Route("gpu", "batch")


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [
        ([(GPU, 1)] * 32, [32]),
        ([(GPU, 1)] * 33, [32, 1]),
        ([(GPU, 1), (BULK, 1), (GPU, 1)], [2, 1]),
        ([(GPU, 17), (GPU, 17)], [17, 17]),
        ([(BULK, 1000), (BULK, 1)], [1000, 1]),
        ([], []),
    ],
)
def test_what_goes_one_way_shares_a_message_up_to_a_slice(asked, sizes):
    groups = _group([parcel(route, number) for route, number in asked])
    assert [sum(len(each.refs) for each in group) for group in groups] == sizes


def test_a_chain_leaves_out_tiers_that_are_not_set_up(app):
    assert chain_from(app, "gpu", ["gpu", "cpu", "cache"]) == [
        "tasks.gpu",
        "tasks.cpu",
        "tasks.cache",
    ]
    assert chain_from(app, "cpu", ["cpu", "cache"]) == ["tasks.cpu", "tasks.cache"]
    assert chain_from(app, "gpu", ["gpu", "cache"]) == ["tasks.gpu", "tasks.cache"]


@pytest.mark.parametrize(
    ("tiers", "first"), [(["gpu", "cpu"], "gpu"), (["cpu"], "cpu"), ([], "cache")]
)
def test_a_job_starts_at_the_first_tier_that_is_set_up(app, tiers, first):
    assert Publisher(app, tiers).first_tier == first


def test_the_message_is_a_celery_chain_that_carries_ids_alone(app):
    publisher = Publisher(app, ["gpu", "cpu"])
    publisher._send_all([Parcel(BULK, [Ref("job_1", 0)])])
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.amqp.queues["batch"])
        message = queue.get(block=False)
    (pairs,), options, embed = message.payload
    assert (message.headers["task"], pairs, options) == ("tasks.gpu", [["job_1", 0]], {})
    steps = [(s["task"], s["args"], s["options"]["queue"]) for s in reversed(embed["chain"])]
    assert steps == [("tasks.cpu", [], "batch.begun"), ("tasks.cache", [], "batch.begun")]


@pytest.fixture
def publisher(app):
    publisher = Publisher(app, ["gpu"])
    publisher.start()
    yield publisher
    publisher.stop()


async def publish_two(publisher):
    refs = parcel(GPU, 1).refs
    publishing = (publisher.publish("gpu", queue, refs) for queue in ("interactive", "batch"))
    return await asyncio.gather(*publishing, return_exceptions=True)


async def test_what_a_broker_refuses_is_refused_to_every_asker(app, publisher, monkeypatch):
    assert await publish_two(publisher) == [None, None]

    def refuse(*_):
        raise ConnectionError

    monkeypatch.setattr(app, "producer_or_acquire", refuse)
    message = "the broker did not take the job: ConnectionError"
    assert [str(failure) for failure in await publish_two(publisher)] == [message] * 2


async def test_a_broker_that_hangs_is_given_up_and_nobody_waits_for_it_twice(
    app, publisher, monkeypatch
):
    hanging = threading.Event()
    monkeypatch.setattr("tasks.broker.publisher.PUBLISH_SECONDS", 0.1)
    monkeypatch.setattr(app, "producer_or_acquire", lambda *_: hanging.wait(20))
    first = asyncio.create_task(publisher.publish("gpu", "batch", parcel(BULK, 1).refs))
    await asyncio.sleep(0)  # it is in flight when the second one asks
    second = asyncio.create_task(publisher.publish("gpu", "batch", parcel(BULK, 1).refs))
    done, waiting = await asyncio.wait({first, second}, timeout=5)
    hanging.set()
    assert not waiting
    assert {str(task.exception()) for task in done} == {
        "the broker did not take the job within 0.1 s"
    }
