"""What is sent of an answer as it comes, and how it ends: whole, or never taken for whole."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from api import streams
from api.errors import ApiError
from api.metrics import ApiMetrics
from api.routing import ABORT
from api.streams import Answering, BrokenOffError, EventStream
from tasks.errors import StoreUnavailable
from tasks.records.jobs import JobRecord, Status
from tasks.records.outcomes import error_of
from tasks.records.streams import Entry

FIRST = Entry(2, (b"[0]", b"[1]"), b'{"id":"x"', "gpu")
MORE = Entry(3, (b"[2]",))
LAST = Entry(5, (b"[3]",), usage=b'{"usage":{}}', ends=True)


def record(status=Status.RUNNING, **fields):
    usual = dict.fromkeys(JobRecord.__struct_fields__)
    return JobRecord(**{**usual, "id": "job_1", "status": status, "tier": "gpu", **fields})


class Stand:
    """A job's answer to one client. place: where the job is in its line."""

    def __init__(self, monkeypatch, *events, numbered=False):
        self.place, self.closed = None, False
        self.events = events
        jobs = SimpleNamespace(place=self._place)
        services = SimpleNamespace(store=SimpleNamespace(jobs=jobs), waiters=self)
        monkeypatch.setattr(streams, "follow", lambda *_: self._follow())
        self.answering = Answering(services, "job_1", "ann", numbered=numbered)

    async def _place(self, _):
        if isinstance(self.place, Exception):
            raise self.place
        return self.place

    async def _follow(self):
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event

    async def sent(self):
        """Return what is sent, and with which error it breaks off."""
        first = await self.answering.begin(0.0)
        found = []
        try:
            async for part in self.answering.parts(first):
                found.append(part)  # noqa: PERF401 - what comes before the end counts
        except BrokenOffError as error:
            return b"".join(found).decode(), error.error
        return b"".join(found).decode(), None


SAID = 'data: {"id":"x","choices":[0]}\n\ndata: {"id":"x","choices":[1]}\n\n'
REST = 'data: {"id":"x","choices":[2]}\n\ndata: {"id":"x","choices":[3]}\n\ndata: {"usage":{}}\n\n'


async def test_each_chunk_is_data_and_a_blank_line_and_done_is_the_last(monkeypatch):
    stand = Stand(monkeypatch, FIRST, MORE, LAST)
    assert await stand.sent() == (f"{SAID}{REST}data: [DONE]\n\n", None)
    assert stand.answering.tier == "gpu"


async def test_who_follows_is_told_the_number_of_each_chunk(monkeypatch):
    stand = Stand(monkeypatch, FIRST, MORE, LAST, numbered=True)
    frames = (await stand.sent())[0].split("\n\n")[:-2]
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert [chunk["sequence_number"] for chunk in chunks] == [0, 1, 2, 3, 4]


FAILED = record(Status.FAILED, error=error_of("no", "upstream_interrupted"))


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (FAILED, "upstream_interrupted"),
        (record(Status.CANCELLED), "cancelled"),
        (record(Status.EXPIRED), "deadline_exceeded"),
        (None, "job_lost"),
        (StoreUnavailable("away"), "unavailable"),
        (ApiError(410, "gone", code="stream_gone"), "stream_gone"),
    ],
)
async def test_what_ends_before_its_answer_does_breaks_off_with_an_error(monkeypatch, end, code):
    said, error = await Stand(monkeypatch, FIRST, end).sent()
    assert (said, error["code"], error["type"]) == (SAID, code, "server_error")


async def test_what_is_not_begun_yet_raises_what_has_a_status_of_its_own(monkeypatch):
    with pytest.raises(StoreUnavailable):
        await Stand(monkeypatch, StoreUnavailable()).sent()


@pytest.mark.parametrize(
    ("place", "status", "comment"),
    [
        (3, Status.QUEUED, "queued 3"),
        (None, Status.QUEUED, "queued"),
        (StoreUnavailable(), Status.QUEUED, "queued"),
        (None, Status.RUNNING, "at gpu"),
    ],
)
async def test_who_waits_is_told_where_his_request_is(monkeypatch, place, status, comment):
    stand = Stand(monkeypatch, record(status), record(status), FIRST, LAST._replace(upto=4))
    stand.place = place
    said, _ = await stand.sent()
    assert said.startswith(f": {comment}\n\ndata: ")
    assert said.count(comment) == 1, "once, and then after a while"


async def test_a_silence_is_broken_in_time(monkeypatch):
    monkeypatch.setattr(streams, "SILENCE_SECONDS", 0.0)
    stand = Stand(monkeypatch, FIRST, record(), record(), LAST._replace(upto=4))
    assert (await stand.sent())[0].count(": at gpu\n\n") == 2


async def test_a_server_that_stops_breaks_off_and_the_job_goes_on(monkeypatch):
    stand = Stand(monkeypatch, FIRST, record())
    stand.closed = True
    said, error = await stand.sent()
    assert (said, error["code"]) == (SAID, "stopping")
    assert "GET /v1/jobs/job_1" in error["message"]


# --- the response ---------------------------------------------------------------------------


class Connection:
    """A client's: notes what is sent to it."""

    def __init__(self):
        self.messages, self.aborted, self.gone = [], 0, asyncio.Event()
        services = SimpleNamespace(metrics=ApiMetrics())
        app = SimpleNamespace(state=SimpleNamespace(services=services))
        self.scope = {"method": "GET", "extensions": {ABORT: self._abort}, "app": app}

    def _abort(self):
        self.aborted += 1

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.messages.append(message)

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def ended(self):
        return self.messages[-1].get("more_body") is False


class Parts:
    """An answer in parts, the last of which may be how it breaks off. closed: nobody follows it."""

    def __init__(self, *parts):
        self._parts, self.closed = parts, False

    async def parts(self, first):
        for part in (first, *self._parts):
            if isinstance(part, Exception):
                raise part
            if isinstance(part, asyncio.Event):
                part.set()
                await asyncio.Event().wait()
            yield part

    def stopping(self):
        return BrokenOffError(error_of("the job goes on", "stopping"))

    async def close(self):
        self.closed = True


async def respond(connection, *parts, left=lambda: None):
    """Send an answer; return it."""
    answer = Parts(*parts)
    response = EventStream(answer, b"data: {}\n\n", {"x-fallthrough-tier": "gpu"}, left)
    async with asyncio.timeout(5):
        await response(connection.scope, connection.receive, connection.send)
    assert answer.closed


async def test_a_whole_answer_ends_its_body_at_once():
    connection = Connection()
    await respond(connection, b"data: [DONE]\n\n")
    assert connection.body == b"data: {}\n\ndata: [DONE]\n\n"
    assert (connection.ended, connection.aborted) == (True, 0)
    head = dict(connection.messages[0]["headers"])
    assert head[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert (head[b"cache-control"], head[b"x-accel-buffering"]) == (b"no-cache", b"no")
    assert head[b"x-fallthrough-tier"] == b"gpu"
    assert b"content-length" not in head


async def test_what_broke_off_is_told_and_its_connection_is_cut():
    connection = Connection()
    await respond(connection, BrokenOffError(error_of("no", "cancelled")))
    *_, error, rest = connection.body.decode().split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "cancelled"
    assert (rest, connection.ended, connection.aborted) == ("", False, 1)


async def test_who_leaves_is_noticed_at_once_and_nothing_more_is_made():
    connection, left = Connection(), []
    await respond(connection, connection.gone, b"more", left=lambda: left.append(True))
    assert (left, connection.body, connection.ended) == ([True], b"data: {}\n\n", False)


async def test_who_is_cut_off_as_the_server_ends_is_told_so():
    """The store does not answer, so nobody could tell him before."""
    connection, waits, left = Connection(), asyncio.Event(), []
    answering = respond(connection, waits, b"more", left=lambda: left.append(True))
    answer = asyncio.create_task(answering)
    await asyncio.wait_for(waits.wait(), 5)
    answer.cancel()
    await asyncio.wait_for(answer, 5)
    first, error, rest = connection.body.decode().split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "stopping"
    assert (first, rest, left) == ("data: {}", "", [])
    assert (connection.ended, connection.aborted) == (False, 1)


async def test_who_does_not_read_keeps_no_server_that_ends(monkeypatch):
    """At a second Ctrl-C each answer is cut off once, and waited for."""
    monkeypatch.setattr(streams, "LAST_SECONDS", 0.01)
    connection, waits = Connection(), asyncio.Event()

    async def full(_):
        waits.set()
        await asyncio.Event().wait()

    connection.send = full
    answer = asyncio.create_task(respond(connection, b"more"))
    await asyncio.wait_for(waits.wait(), 5)
    answer.cancel()
    await asyncio.wait_for(answer, 2)
    assert connection.aborted == 1


async def test_who_leaves_after_the_end_has_left_nothing():
    connection, left = Connection(), []
    await respond(connection, b"data: [DONE]\n\n", left=lambda: left.append(True))
    assert left == []


async def test_who_asks_for_the_head_alone_gets_no_body():
    connection = Connection()
    connection.scope["method"] = "HEAD"
    await respond(connection)
    assert (connection.body, connection.ended) == (b"", True)
