"""Messages that go by the store's trips: as Celery makes them, to the letter."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from base64 import b64decode

import pytest
from harness.stores import store_on
from harness.waiting import eventually
from redis import Redis

from fallback_chain import Body
from tasks.app import create_app
from tasks.broker.chains import Chains, Parcel, Route
from tasks.broker.couriers import KombuCourier
from tasks.broker.publisher import Publisher
from tasks.broker.store_courier import StoreCourier
from tasks.errors import PublishError, TooManyQueued
from tasks.records.batches import PHASES
from tasks.records.idempotency import IdempotencyKey
from tasks.records.jobs import Dispatch, Options, Queue, Ref, Submission
from tasks.settings import Settings
from tasks.store.keyspace import PREFIX
from tasks.submit import Submitter

ORDER = ("gpu", "cpu", "cache")
UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ODD = ["job_1", 'a"quoted"', "back\\slash", "its-ref", "%s {0}", "ü\n\x00", "x" * 2000]


@pytest.fixture
def app(valkey):
    return create_app(Settings(redis_url=valkey.url))


@pytest.fixture
async def whole_store(valkey):
    store = store_on(valkey.url)
    yield store
    await store.close()


@pytest.fixture
def store(whole_store):
    return whole_store.connection


@pytest.fixture
def chains(app):
    return Chains(app, ORDER)


@pytest.fixture
def courier(chains, store):
    return StoreCourier(chains, store)


@pytest.fixture
async def kombu(chains):
    courier = KombuCourier(chains)
    courier.start()
    yield courier
    courier.stop()


@pytest.fixture
def client(valkey):
    with valkey.client() as client:
        yield client


def read(text):
    """Return a message, or an event, with its body as it was before it was packed."""
    message = json.loads(text)
    message["body"] = json.loads(b64decode(message["body"]))
    return message


def popped(client, queue):
    """Return what lies in a queue, the first one that came first."""
    texts = client.lrange(queue, 0, -1)[::-1]
    client.delete(queue)
    return [read(text) for text in texts]


def alike(message):
    """Return a message with one id in place of each that is made anew."""
    return json.loads(UUID.sub("id", json.dumps(message)))


ROUTES = [
    *(Route(tier, queue.value) for tier in ORDER for queue in Queue if queue.kind != Queue.PHASES),
    *(Route(phase, Queue.PHASES.value) for phase in PHASES),
    Route("l4", Queue.BATCH_BEGUN.value),
]


@pytest.mark.parametrize("route", ROUTES, ids="-".join)
async def test_a_message_is_what_kombu_writes(courier, kombu, client, route):
    given = [Parcel(route, [Ref(name, number)]) for number, name in enumerate(ODD)]
    given.append(Parcel(route, [Ref(name, 3) for name in ODD]))
    await kombu.send(given)
    expected = popped(client, route.queue)
    await courier.send(given)
    sent = popped(client, route.queue)
    assert [alike(each) for each in sent] == [alike(each) for each in expected]
    arguments = [each["body"][0] for each in sent]
    assert arguments == [[[list(ref) for ref in parcel.refs]] for parcel in given]
    ids = [each["headers"]["id"] for each in sent]
    tags = [each["properties"]["delivery_tag"] for each in sent]
    assert len({*ids, *tags}) == 2 * len(given)
    for each in sent:
        headers = each["headers"]
        assert headers["id"] == headers["root_id"] == each["properties"]["correlation_id"]


@contextlib.contextmanager
def listening(client):
    with client.pubsub() as pubsub:
        pubsub.psubscribe("/0.celeryev/*")
        assert pubsub.get_message(timeout=5)["type"] == "psubscribe"
        yield lambda: read(pubsub.get_message(timeout=5)["data"])


CHANGING = {"clock": 0, "timestamp": 0}


async def test_who_listens_is_told_what_celery_tells(courier, kombu, client):
    given = [Parcel(ROUTES[0], [Ref(name, 0)]) for name in ODD]
    with listening(client) as heard:
        await kombu.send(given)
        expected = [heard() for _ in given]
        await courier.send(given)
        told = [heard() for _ in given]
    assert [alike(e["body"] | CHANGING) for e in told] == [
        alike(e["body"] | CHANGING) for e in expected
    ]
    sent = popped(client, ROUTES[0].queue)[len(given) :]
    assert [e["body"]["uuid"] for e in told] == [each["headers"]["id"] for each in sent]
    clocks = [each["body"]["clock"] for each in expected + told]
    assert clocks == sorted(set(clocks))
    times = [each["body"]["timestamp"] for each in expected + told]
    assert times == sorted(times)


def published(client):
    return client.info("commandstats").get("cmdstat_publish", {"calls": 0})["calls"]


async def test_where_nobody_listens_no_event_is_made_until_it_is_looked_again(
    courier, client, monkeypatch
):
    one = [Parcel(ROUTES[0], [Ref("job_1", 0)])]
    client.config_resetstat()
    for _ in range(20):
        await courier.send(one)
    assert published(client) == 1
    with listening(client) as heard:
        await courier.send(one)
        assert published(client) == 1
        monkeypatch.setattr(courier, "_unheard_until", 0.0)
        for _ in range(3):
            await courier.send(one)
            assert heard()["body"]["type"] == "task-sent"


async def test_it_says_how_many_messages_wait(courier):
    await courier.send([Parcel(ROUTES[0], [Ref(f"job_{n}", 0)]) for n in range(3)])
    assert await courier.depths([ROUTES[0].queue, Queue.BATCH.value]) == [3, 0]


async def test_a_database_of_its_own_is_where_both_lie(valkey):
    url = f"{valkey.url}/3"
    app, store = create_app(Settings(redis_url=url)), store_on(url)
    with Redis.from_url(url) as client, client.pubsub() as pubsub:
        pubsub.psubscribe("/3.celeryev/*")
        pubsub.get_message(timeout=5)
        await StoreCourier(Chains(app, ORDER), store.connection).send(
            [Parcel(ROUTES[0], [Ref("job_1", 0)])]
        )
        assert len(popped(client, ROUTES[0].queue)) == 1
        assert read(pubsub.get_message(timeout=5)["data"])["body"]["type"] == "task-sent"
    await store.close()


async def test_a_server_at_its_memory_limit_takes_messages(courier, client):
    client.config_set("maxmemory", 1)
    try:
        await courier.send([Parcel(ROUTES[0], [Ref("job_1", 0)])])
    finally:
        client.config_set("maxmemory", 0)
    assert len(popped(client, ROUTES[0].queue)) == 1


def refuse(client):
    client.replicaof("127.0.0.1", 1)  # READONLY: a failover has begun


def be_away(client):
    client.config_set("maxclients", 1)
    client.client_kill_filter(_type="normal", skipme=True)


def be_well(client):
    client.replicaof("NO", "ONE")
    client.config_set("maxclients", 10_000)


@pytest.fixture
async def publisher(app, store):
    publisher = Publisher(app, ["gpu", "cpu"], store=store)
    publisher.start()
    yield publisher
    await publisher.stop()


@pytest.mark.parametrize("fails", [refuse, be_away])
async def test_what_the_server_does_not_take_is_told_and_what_is_new_is_kept(
    publisher, client, fails
):
    queue = Queue.INTERACTIVE.value
    fails(client)
    try:
        with pytest.raises(PublishError, match="the broker did not answer: "):
            await publisher.publish("gpu", queue, [Ref("job_1", 0)])
        await publisher.publish_new("gpu", queue, [Ref("job_2", 0)])
        await publisher.dispatch([Dispatch("job_3", 1, "gpu", queue)])
        await eventually(lambda: len(publisher._refused) == 2)
    finally:
        be_well(client)
    await publisher.dispatch_refused()
    [message] = popped(client, queue)
    assert message["body"][0] == [[["job_2", 0], ["job_3", 1]]]


async def test_what_is_kept_goes_out_by_itself_when_the_server_is_well(
    publisher, client, monkeypatch
):
    monkeypatch.setattr("tasks.broker.publisher.AGAIN_SECONDS", 0.01)
    keeping = asyncio.create_task(publisher.keep())
    refuse(client)
    try:
        for number in range(3):
            await publisher.publish_new("gpu", "interactive", [Ref(f"job_{number}", 0)])
        await eventually(lambda: len(publisher._refused) == 3)
    finally:
        be_well(client)
    await eventually(lambda: client.llen("interactive"))
    [message] = popped(client, "interactive")
    assert len(message["body"][0][0]) == 3
    keeping.cancel()


async def test_an_event_that_is_refused_costs_no_message(valkey, client, app):
    client.acl_setuser("few", enabled=True, nopass=True, keys=["*"], categories=["+@all"])
    client.execute_command("ACL", "SETUSER", "few", "resetchannels", "&{ft}:*")
    url = valkey.url.replace("redis://", "redis://few:any@")
    store = store_on(url)
    courier = StoreCourier(Chains(app, ORDER), store.connection)
    for _ in range(3):
        await courier.send([Parcel(ROUTES[0], [Ref("job_1", 0)])])
    assert len(popped(client, ROUTES[0].queue)) == 3
    await store.close()
    client.acl_deluser("few")


async def test_what_is_new_is_waited_for_by_nobody_but_who_ends(app, store, client):
    publisher = Publisher(app, ["gpu", "cpu"], store=store)
    client.execute_command("CLIENT", "PAUSE", 300, "ALL")
    for number in range(3):
        await publisher.publish_new("gpu", "interactive", [Ref(f"job_{number}", 0)])
    await publisher.stop()
    assert [[job for job, _ in each["body"][0][0]] for each in popped(client, "interactive")] == [
        ["job_0", "job_1", "job_2"]
    ]


# What comes with a job's record


def job(number, queue=Queue.INTERACTIVE):
    body, options = Body.of({"messages": []}), Options()
    return Submission(f"job_{number}", "ann", queue, body, options, 60.0)


@pytest.fixture
def submitter(whole_store, publisher):
    return Submitter(whole_store, publisher)


@pytest.fixture
def sends(submitter, kombu):
    return submitter, kombu


@pytest.fixture
def sent(publisher, monkeypatch):
    """How many messages went by themselves."""
    sizes, send = [], publisher._courier.send

    async def noted(parcels):
        sizes.append(len(parcels))
        await send(parcels)

    monkeypatch.setattr(publisher._courier, "send", noted)
    return sizes


def jobs_of_others(client, queue):
    names = {f"job_other{n}": 2e12 for n in range(100)}
    client.zadd(f"{PREFIX}dispatched:{queue.value}", names)


@pytest.mark.parametrize(
    ("queue", "backlog"), [(q, b) for q in (Queue.INTERACTIVE, Queue.BATCH) for b in (False, True)]
)
async def test_a_lone_jobs_message_comes_with_its_record(sends, client, sent, queue, backlog):
    """Who has few jobs does not wait behind the many of others: it lies where the script says."""
    submitter, kombu = sends
    if backlog:
        jobs_of_others(client, queue)
    await submitter.submit([job(1, queue)])
    assert sent == []
    where = (queue.begun if backlog else queue).value
    [message] = popped(client, where)
    await kombu.send([Parcel(Route("gpu", where), [Ref("job_1", 0)])])
    [expected] = popped(client, where)
    assert alike(message) == alike(expected)


async def test_who_listens_is_told_of_a_message_that_came_with_its_record(submitter, client):
    jobs_of_others(client, Queue.INTERACTIVE)
    with listening(client) as heard:
        await submitter.submit([job(1)])
        told = (await asyncio.to_thread(heard))["body"]
    [message] = popped(client, "interactive.begun")
    assert (told["type"], told["uuid"]) == ("task-sent", message["headers"]["id"])
    assert told["queue"] == told["routing_key"] == "interactive.begun"


async def test_a_job_that_is_refused_brings_no_message(valkey, app, client):
    small = store_on(valkey.url, max_queued_jobs=1)
    publisher = Publisher(app, ["gpu"], store=small.connection)
    submitter = Submitter(small, publisher)
    await submitter.submit([job(1)])
    with pytest.raises(TooManyQueued):
        await submitter.submit([job(2)])
    [message] = popped(client, "interactive")
    assert message["body"][0] == [[["job_1", 0]]]
    await small.close()


@pytest.mark.parametrize("how", ["together", "at once", "with a key"])
async def test_the_messages_of_others_are_published(submitter, client, sent, how):
    if how == "together":
        await submitter.submit([job(1), job(2)])
    elif how == "at once":
        await asyncio.gather(*(submitter.submit([job(n)]) for n in (1, 2)))
    else:
        await submitter.submit([job(1)], [IdempotencyKey("mine", "0" * 32, lookup=True)])
    await eventually(lambda: sent)
    await eventually(lambda: client.llen("interactive"))
    pairs = [pair for each in popped(client, "interactive") for pair in each["body"][0][0]]
    assert pairs == [["job_1", 0], ["job_2", 0]][: len(pairs)]
    assert len(pairs) == (1 if how == "with a key" else 2)


async def test_where_many_come_their_messages_are_shared(submitter, publisher, sent):
    for number in range(60):
        await submitter.submit([job(number)])
        await asyncio.sleep(0)
        if publisher._parcels.many:
            break
    assert publisher.letter("gpu", "interactive", Ref("job_x", 0)) is None
    assert sent == []
