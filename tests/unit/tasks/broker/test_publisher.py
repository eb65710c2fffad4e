"""Which jobs share a message, and the chain that it starts."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from harness.waiting import eventually, turns

from tasks.app import create_app
from tasks.broker.chains import Chains, Parcel, Route, chain_from
from tasks.broker.publisher import LINGER_SECONDS, MORE, Publisher, _group
from tasks.errors import PublishError
from tasks.records.jobs import Dispatch, Ref
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
    assert chain_from("gpu", ("gpu", "cpu", "cache")) == [
        "tasks.gpu",
        "tasks.cpu",
        "tasks.cache",
    ]
    assert chain_from("cpu", ("cpu", "cache")) == ["tasks.cpu", "tasks.cache"]
    assert chain_from("gpu", ("gpu", "cache")) == ["tasks.gpu", "tasks.cache"]


def test_what_is_no_tier_of_ours_goes_alone(app):
    """A phase ends there; who has the tier, or has it neither, knows what comes next."""
    assert chain_from("join", ("gpu", "cache")) == ["tasks.join"]
    assert chain_from("l4", ("gpu", "cache")) == ["tasks.l4"]
    with app.connection_for_write() as connection:
        given = Parcel(Route("l4", "interactive"), [Ref("job_1", 3)])
        Chains(app, ("gpu", "cache")).publish(given, app.amqp.Producer(connection))
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue(app.amqp.queues["interactive"]).get(block=False)
    (pairs,), _, embed = message.payload
    assert (message.headers["task"], pairs) == ("tasks.l4", [["job_1", 3]])
    assert not embed["chain"]


@pytest.mark.parametrize(
    ("tiers", "first"), [(["gpu", "cpu"], "gpu"), (["cpu"], "cpu"), ([], "cache")]
)
def test_a_job_starts_at_the_first_tier_that_is_set_up(app, tiers, first):
    assert Publisher(app, tiers).order[0] == first


def test_the_message_is_a_celery_chain_that_carries_ids_alone(app):
    with app.connection_for_write() as connection:
        given = Parcel(BULK, [Ref("job_1", 0)])
        Chains(app, ("gpu", "cpu", "cache")).publish(given, app.amqp.Producer(connection))
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.amqp.queues["batch"])
        message = queue.get(block=False)
    (pairs,), options, embed = message.payload
    assert (message.headers["task"], pairs, options) == ("tasks.gpu", [["job_1", 0]], {})
    steps = [(s["task"], s["args"], s["options"]["queue"]) for s in reversed(embed["chain"])]
    assert steps == [("tasks.cpu", [], "batch.begun"), ("tasks.cache", [], "batch.begun")]


@pytest.fixture
async def publisher(app):
    publisher = Publisher(app, ["gpu"])
    publisher.start()
    yield publisher
    await publisher.stop()


async def publish_two(publisher):
    refs = parcel(GPU, 1).refs
    publishing = (publisher.publish("gpu", queue, refs) for queue in ("interactive", "batch"))
    return await asyncio.gather(*publishing, return_exceptions=True)


def refuse(*_, **__):
    raise ConnectionError


async def test_what_a_broker_refuses_is_refused_to_every_asker(app, publisher, monkeypatch):
    monkeypatch.setattr(app, "connection_for_write", refuse)
    message = "the broker did not answer: ConnectionError"
    failures = await publish_two(publisher)
    assert [str(failure) for failure in failures] == [message] * 2
    assert all(isinstance(failure.__cause__, ConnectionError) for failure in failures)
    monkeypatch.undo()
    assert await publish_two(publisher) == [None, None]


async def test_a_connection_that_died_while_nobody_used_it_costs_nothing(
    app, publisher, monkeypatch
):
    assert await publish_two(publisher) == [None, None]
    producer = publisher._courier._thread._made
    monkeypatch.setattr(producer, "publish", refuse)
    assert await publish_two(publisher) == [None, None]
    assert publisher._courier._thread._made is not producer, "a new connection took it"


@pytest.fixture
def sent(publisher, monkeypatch):
    """How many jobs each trip to the broker took."""
    sizes, send = [], publisher._courier.send

    async def noted(messages):
        sizes.append(sum(len(each.refs) for each in messages))
        await send(messages)

    monkeypatch.setattr(publisher._courier, "send", noted)
    return sizes


async def test_where_many_come_those_of_a_moment_share_a_message(publisher, sent, monkeypatch):
    monkeypatch.setattr("tasks.broker.publisher.LINGER_SECONDS", 0.3)
    publishing = []
    for _ in range(2):
        publishing += [asyncio.create_task(publish_one(publisher)) for _ in range(10)]
        await turns()
    await asyncio.gather(*publishing)
    assert sent == [20]


async def test_a_lone_one_waits_for_nobody(publisher, sent, monkeypatch):
    slept, sleep = [], asyncio.sleep

    async def noted(seconds):
        slept.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr("asyncio.sleep", noted)
    for _ in range(12):
        await publish_one(publisher)
        await sleep(2 * LINGER_SECONDS / MORE)  # half as many as share a message, at most
    assert (sent, slept) == ([1] * 12, [])


async def publish_one(publisher):
    await publisher.publish("gpu", "interactive", [Ref("job_1", 0)])


class Hanging:
    """A broker whose next calls do not return until they are let go."""

    def __init__(self, app, monkeypatch):
        self.let_go, self.calls = threading.Event(), 0
        self._connect = app.connection_for_write
        monkeypatch.setattr(app, "connection_for_write", self)

    def __call__(self, **options):
        self.calls += 1
        if self.calls == 1:
            self.let_go.wait(20)
        return self._connect(**options)


def messages(app, queue):
    with app.connection_for_read() as connection:
        found = connection.SimpleQueue(app.amqp.queues[queue])
        return [found.get(block=False).payload[0][0] for _ in range(found.qsize())]


async def test_a_broker_that_hangs_is_given_up_and_nobody_waits_for_it_twice(
    app, publisher, monkeypatch
):
    hanging = Hanging(app, monkeypatch)
    monkeypatch.setattr("tasks.broker.couriers.PUBLISH_SECONDS", 0.1)
    first = asyncio.create_task(publisher.publish("gpu", "batch", parcel(BULK, 1).refs))
    await asyncio.sleep(0)  # it is in flight when the second one asks
    second = asyncio.create_task(publisher.publish("gpu", "batch", parcel(BULK, 1).refs))
    done, waiting = await asyncio.wait({first, second}, timeout=5)
    hanging.let_go.set()
    assert not waiting
    assert {str(task.exception()) for task in done} == {
        "the broker did not take the job within 0.1 s"
    }


async def test_a_thread_that_is_stuck_is_replaced_and_what_it_publishes_late_comes_once(
    app, publisher, monkeypatch
):
    messages(app, "interactive")  # of tests before
    hanging = Hanging(app, monkeypatch)
    monkeypatch.setattr("tasks.broker.couriers.PUBLISH_SECONDS", 0.2)
    with pytest.raises(PublishError):
        await publisher.publish("gpu", "interactive", [Ref("job_late", 0)])
    # While the first call still hangs, others are served.
    await publisher.publish("gpu", "interactive", [Ref("job_next", 0)])
    assert messages(app, "interactive") == [[["job_next", 0]]]
    old = next(t for t in threading.enumerate() if t.name == "publisher")
    hanging.let_go.set()
    await asyncio.to_thread(old.join, 5)
    assert not old.is_alive(), "it ends when its call returns"
    assert messages(app, "interactive") == [[["job_late", 0]]], "stale: the worker drops it"


async def test_a_stuck_call_whose_asker_left_is_noticed_by_the_next_one(
    app, publisher, monkeypatch
):
    hanging = Hanging(app, monkeypatch)
    monkeypatch.setattr("tasks.broker.couriers.PUBLISH_SECONDS", 0.5)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(publisher.check(), 0.1)  # as /health/ready does
    waiting = asyncio.create_task(publisher.check())  # behind it, and not begun
    await eventually(lambda: publisher._courier._thread.stuck(0.5))
    await publisher.check()
    await waiting
    hanging.let_go.set()


async def test_what_the_broker_did_not_take_is_kept_and_sent_once_when_it_does(
    app, publisher, monkeypatch
):
    given = [Dispatch("job_1", 2, "gpu", "batch"), Dispatch("unit_1", 0, "cpu", "batch.begun")]
    for each in given:
        messages(app, each.queue)  # of tests before
    with monkeypatch.context() as patch:
        patch.setattr(app, "connection_for_write", refuse)
        await publisher.dispatch(given)
        await publisher.dispatch_refused()
    assert [messages(app, each.queue) for each in given] == [[], []]
    for _ in range(2):
        await publisher.dispatch_refused()
    sent = [[[[each.id, each.attempt]]] for each in given]
    assert [messages(app, each.queue) for each in given] == sent


async def test_a_publish_that_fails_once_its_asker_is_gone_is_no_error_in_the_log(
    app, publisher, monkeypatch, caplog
):
    asked = threading.Event()

    def refuse_late(*_, **__):
        asked.wait(20)
        raise ConnectionError

    monkeypatch.setattr(app, "connection_for_write", refuse_late)
    asking = asyncio.create_task(publisher.publish("gpu", "batch", parcel(BULK, 1).refs))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    asked.set()
    await eventually(lambda: "the broker did not take a message" in caplog.text)
    await turns()
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_what_no_message_can_be_made_of_is_refused_and_ends_no_loop(publisher):
    with pytest.raises(PublishError, match="no message could be made: KeyError") as refused:
        await publisher.publish("gpu", "of-another-release", [Ref("job_1", 0)])
    assert isinstance(refused.value.__cause__, KeyError)
    await publisher.dispatch([Dispatch("job_1", 0, "gpu", "of-another-release")])
    assert len(publisher._refused) == 1
