"""An answer that is told as it comes; the API is a double, or its bytes are."""

from __future__ import annotations

import httpx
import pytest
from rich.console import Console

from cli import streams
from cli.client import ApiAwayError, ApiCutOffError, ApiFailedError, Client
from cli.streams import tell


def chunk(number, text, index=0):
    return {"sequence_number": number, "choices": [{"index": index, "delta": {"content": text}}]}


class ApiDouble:
    """Streams one script after the other; an exception in it is raised."""

    def __init__(self, *scripts, job=None):
        self.scripts, self.asked = list(scripts), []
        self.jobs = [job or done("one two")]

    def stream(self, job_id, after):
        self.asked.append(after)
        for event in self.scripts.pop(0) if self.scripts else [ApiAwayError("gone")]:
            if isinstance(event, Exception):
                raise event
            yield event

    def job(self, job_id):
        return self.jobs.pop(0) if len(self.jobs) > 1 else self.jobs[0]


def done(text, status="succeeded"):
    return {"status": status, "text": text}


RUNNING = {"status": "running", "text": None}
NONE = Console(quiet=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(streams, "AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(streams, "AWAY_SECONDS", 0.05)


@pytest.mark.parametrize(
    ("scripts", "asked"),
    [
        ([[chunk(0, ""), "queued 3", chunk(1, "one"), chunk(2, " two")]], [-1]),
        ([[chunk(0, "one"), ApiAwayError("cut")], [chunk(1, " two")]], [-1, 0]),
        ([[ApiAwayError("not yet")], [chunk(0, "one two")]], [-1, -1]),
        ([[chunk(0, "one")]], [-1]),  # the rest was not streamed: the job has it
        ([[]], [-1]),
        ([[chunk(0, "one"), chunk(1, "other", index=1), chunk(2, " two")]], [-1]),
        ([[chunk(0, None), {"sequence_number": 1, "choices": []}, chunk(2, "one two")]], [-1]),
    ],
)
def test_each_piece_is_told_once_and_the_job_has_the_last_word(capsys, scripts, asked):
    api = ApiDouble(*scripts)
    assert tell(api, "j1", NONE) == done("one two")
    assert capsys.readouterr().out == "one two\n"
    assert api.asked == asked


def test_a_stream_that_ends_before_its_job_goes_on_where_it_was(capsys):
    api = ApiDouble([chunk(4, "one")], [chunk(5, " two")])
    api.jobs = [RUNNING, done("one two")]
    tell(api, "j1", NONE)
    assert (capsys.readouterr().out, api.asked) == ("one two\n", [-1, 4])


def test_an_answer_in_other_words_is_told_whole_on_a_line_of_its_own(capsys):
    tell(ApiDouble([chunk(0, "three")]), "j1", NONE)
    assert capsys.readouterr().out == "three\none two\n"


def test_of_a_job_without_an_answer_nothing_more_is_told(capsys):
    job = done(None, "failed")
    assert tell(ApiDouble([chunk(0, "one")], job=job), "j1", NONE) == job
    assert capsys.readouterr().out == "one\n"
    assert tell(ApiDouble([], job=job), "j1", NONE) == job
    assert capsys.readouterr().out == ""


def test_control_characters_are_seen_wherever_the_text_is_cut(capsys):
    said = ["a\x1b", "]0;owned\x07", "b\r", "\nc\r", "d\r"]
    api = ApiDouble([chunk(n, text) for n, text in enumerate(said)], job=done("".join(said)))
    tell(api, "j1", NONE)
    assert capsys.readouterr().out == "a\\x1b]0;owned\\x07b\nc\\x0dd\\x0d\n"


@pytest.mark.parametrize("error", [ApiAwayError("gone"), ApiFailedError("no job")])
def test_an_api_that_stays_away_or_refuses_ends_it_and_the_line(capsys, error):
    api = ApiDouble([chunk(0, "one"), error], *([error] for _ in range(1000)))
    with pytest.raises(type(error)):
        tell(api, "j1", NONE)
    assert capsys.readouterr().out == "one\n"
    assert (len(api.asked) > 1) == isinstance(error, ApiAwayError)


def test_it_waits_a_minute_at_least_for_an_api_that_is_away(monkeypatch):
    monkeypatch.undo()
    assert streams.AWAY_SECONDS >= 60


FRAMES = (
    ': queued 2\n\ndata: {"sequence_number":0,"choices":[{"delta":{"content":"a\u2028\x85é"}}]}\n\n'
    ": at gpu\n\ndata: [DONE]\n\n"
).encode()


def streamed(client, status=200, pieces=(FRAMES,), after=-1):
    """Return what Client.stream yields of a reply, and the URL that was asked."""
    asked = []

    def answer(request):
        asked.append(str(request.url))
        return httpx.Response(status, content=iter(pieces))

    client._http = httpx.Client(base_url=client.url, transport=httpx.MockTransport(answer))
    with client:
        return list(client.stream("job_1", after)), asked[0]


@pytest.fixture
def client():
    return Client("http://127.0.0.1:1")


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_frames_are_read_whatever_the_pieces_they_come_in(client, size):
    pieces = [FRAMES[at : at + size] for at in range(0, len(FRAMES), size)]
    events, url = streamed(client, pieces=pieces, after=4)
    assert url.endswith("/v1/jobs/job_1/stream?starting_after=4")
    assert events[0::2] == ["queued 2", "at gpu"]
    assert events[1]["choices"][0]["delta"]["content"] == "a\u2028\x85é"


def test_an_error_chunk_ends_it_and_the_job_says_the_rest(client):
    body = FRAMES + b'data: {"error":{"message":"cut","code":"stopping"}}\n\n' + FRAMES
    events, url = streamed(client, pieces=[body])
    assert url.endswith("/v1/jobs/job_1/stream")
    assert len(events) == 3


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, b'{"error":{"message":"no such job"}}', ApiFailedError),
        (503, b'{"error":{"message":"not yet"}}', ApiAwayError),
        (200, b"data: {half\n\n", ApiAwayError),
        (502, b"<html>", ApiCutOffError),
    ],
)
def test_what_the_api_says_instead_is_raised(client, status, body, error):
    with pytest.raises(error) as raised:
        streamed(client, status, [body])
    assert type(raised.value) is error
