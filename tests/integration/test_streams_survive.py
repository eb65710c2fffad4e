"""Streams whose worker, job or API process ends: one answer, or an honest end."""

from __future__ import annotations

import signal
import time

import httpx
import pytest
from harness.reader import Reader, chat
from harness.streams import LONG, PROMPT, follow, job, job_of, numbers, status_of, submit, words
from harness.waiting import wait_until


@pytest.fixture(autouse=True)
def _left():
    yield
    while Reader.opened:
        Reader.opened.pop().leave()


# Whose worker goes away


def test_a_worker_that_dies_before_the_first_word_is_replaced_unseen(fleet, gpu):
    gpu.plan = lambda call: "hang" if len(gpu.calls) == 1 else "ok"
    api, first = fleet.start(fleet.api(), fleet.worker(lease_seconds=2, **LONG))
    with Reader(api.url, chat("w")) as reader:
        wait_until(lambda: gpu.running)
        other = fleet.worker(lease_seconds=2, **LONG)
        first.signal(signal.SIGKILL)
        other.start()
        assert reader.to_the_end().answered
        assert reader.text == "gpu-model: w"
        told = job(api, job_of(reader))
    assert [each["verdict"] for each in told["attempts"]] == ["lost", "answered"]
    assert len(gpu.calls) == 2


def test_a_worker_that_dies_after_the_first_word_ends_the_stream(fleet, gpu, cpu):
    api, first = fleet.start(fleet.api(), fleet.worker(lease_seconds=2, **LONG))
    gpu.words, gpu.pace = 500, 0.05
    with Reader(api.url, chat("w")) as reader:
        reader.words(5)
        other = fleet.worker(lease_seconds=2, **LONG)
        first.signal(signal.SIGKILL)
        other.start()
        reader.to_the_end()
        assert reader.broke_off
        assert reader.error == "upstream_interrupted"
        assert words(500).startswith(reader.text)
        told = job(api, job_of(reader))
        assert (told["status"], told["error"]["code"]) == ("failed", "upstream_interrupted")
        with follow(api, job_of(reader)) as again:
            again.to_the_end()
            assert again.broke_off
            assert again.text == reader.text
    assert (len(gpu.calls), len(cpu.calls)) == (1, 0)


def test_a_worker_that_is_told_to_stop_ends_its_streams_in_peace(fleet, gpu):
    api, worker = fleet.start(fleet.api(), fleet.worker(drain_seconds=10, **LONG))
    gpu.words, gpu.pace = 40, 0.05
    with Reader(api.url, chat("w")) as reader:
        reader.words(5)
        worker.signal(signal.SIGTERM)
        assert reader.to_the_end().answered
        assert reader.text == words(40)
    assert worker.wait(15) == 0, worker.log


def test_a_stream_that_lasts_longer_than_its_worker_may_is_cut_off_honestly(fleet, gpu, cpu):
    first = fleet.worker(drain_seconds=1, **LONG)
    api, _ = fleet.start(fleet.api(), first)
    gpu.words, gpu.pace = 500, 0.05
    with Reader(api.url, chat("w")) as reader:
        reader.words(5)
        fleet.worker(**LONG).start()
        first.signal(signal.SIGTERM)
        asked = time.monotonic()
        reader.to_the_end(10)
        assert 0.9 < time.monotonic() - asked < 1 + PROMPT
        assert reader.broke_off
        assert reader.error == "upstream_interrupted"
        assert words(500).startswith(reader.text)
        assert status_of(api, job_of(reader)) == "failed"
    assert first.wait(15) == 0, first.log
    assert (len(gpu.calls), len(cpu.calls)) == (1, 0)


def test_a_worker_that_stood_still_adds_nothing_to_what_others_ended(fleet, gpu, cpu):
    api, first = fleet.start(fleet.api(), fleet.worker(lease_seconds=2, **LONG))
    gpu.words, gpu.pace = 500, 0.05
    with Reader(api.url, chat("w")) as reader:
        reader.words(5)
        fleet.worker(lease_seconds=2, **LONG).start()
        first.signal(signal.SIGSTOP)
        reader.to_the_end()
        first.signal(signal.SIGCONT)
        assert reader.broke_off
        assert reader.error == "upstream_interrupted"
        wait_until(lambda: gpu.left, 5, "its call is ended")
        with follow(api, job_of(reader)) as again:
            again.to_the_end()
            assert again.broke_off
            assert again.text == reader.text
    assert (len(gpu.calls), len(cpu.calls)) == (1, 0)


def test_a_worker_that_stood_still_before_the_first_word_says_none(fleet, gpu):
    api, first = fleet.start(fleet.api(), fleet.worker(lease_seconds=2, **LONG))
    gpu.words, gpu.pace, gpu.delay = 40, 0.05, 1
    gpu.text = lambda _: words(40, f"try-{len(gpu.calls)}")
    with Reader(api.url, chat("w")) as reader:
        wait_until(lambda: gpu.running)
        first.signal(
            signal.SIGSTOP
        )  # before the other one, whose start may last longer than a word
        fleet.worker(lease_seconds=2, **LONG).start()
        reader.words(3)
        first.signal(signal.SIGCONT)
        assert reader.to_the_end().answered
        assert reader.text == words(40, "try-2")
        with follow(api, job_of(reader)) as again:
            assert again.to_the_end().text == reader.text


# Whose job ends in mid-stream


def test_a_job_that_is_cancelled_in_mid_stream_says_so(fleet, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 500, 0.05
    with Reader(api.url, chat("w")) as reader, follow(api, submit(api)) as other:
        reader.words(3)
        other.words(3)
        httpx.post(f"{api.url}/v1/jobs/{job_of(reader)}/cancel").raise_for_status()
        reader.to_the_end(PROMPT)
        assert reader.broke_off
        assert reader.error == "cancelled"
        wait_until(lambda: gpu.left, PROMPT)
        other.words(len(other.text.split()) + 3)


def test_a_job_whose_deadline_comes_in_mid_stream_says_so(fleet, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 500, 0.05
    with Reader(api.url, chat("w"), headers={"x-fallthrough-deadline-seconds": "2"}) as reader:
        reader.to_the_end(5)
        assert reader.broke_off
        assert reader.error == "deadline_exceeded"
        assert words(500).startswith(reader.text)
        assert len(reader.text) > 3
        assert status_of(api, job_of(reader)) == "expired"
    wait_until(lambda: gpu.left, PROMPT)


# Whose API process goes away


def check_every_place(api, job_id, whole):
    """Resume after each of its chunks: to the byte what was seen of it at first."""
    events = whole.events
    assert numbers(whole) == list(range(len(events) - 1))
    for after in range(len(events) - 1):
        with follow(api, job_id, after) as rest:
            assert rest.to_the_end().is_whole
            assert rest.events == events[after + 1 :]


def test_a_stream_whose_api_process_died_is_resumed_at_every_place(fleet, gpu):
    first, second, _ = fleet.start(fleet.api(), fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 40, 0.05
    with Reader(first.url, chat("w", n=1)) as chatting:
        chatting.words(6)
        job_id = job_of(chatting)
        with follow(first, job_id) as following:
            following.words(10)
            first.signal(signal.SIGKILL)
            chatting.to_the_end()
            following.to_the_end()
            assert not chatting.is_whole
            assert not following.is_whole
            seen = following.events
        # All at once, from each place that he may have come to, while it goes on.
        rests = [(after, follow(second, job_id, after)) for after in range(len(seen))]
        with follow(second, job_id) as whole:
            assert whole.to_the_end().answered
        assert whole.text == words(40)
        assert whole.events[: len(seen)] == seen
        for after, rest in rests:
            with rest:
                assert rest.to_the_end().is_whole
                assert rest.events == whole.events[after + 1 :]
        assert whole.text.startswith(chatting.text)
    check_every_place(second, job_id, whole)
    assert len(gpu.calls) == 1


def test_a_stream_that_broke_off_is_resumed_at_every_place(fleet, gpu):
    first, second, _ = fleet.start(fleet.api(), fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.mode = 30, "cut@12"
    job_id = submit(first)
    with follow(first, job_id) as whole:
        assert whole.to_the_end().broke_off
        assert whole.text == words(12)
    first.signal(signal.SIGKILL)
    for after in range(len(whole.chunks)):
        with follow(second, job_id, after) as rest:
            assert rest.to_the_end().broke_off
            assert rest.events == whole.events[after + 1 :]


def test_an_api_process_that_stops_tells_its_readers_and_the_job_goes_on(fleet, gpu):
    first, second, _ = fleet.start(fleet.api(drain_seconds=2), fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 80, 0.05
    with Reader(first.url, chat("w")) as chatting, follow(first, submit(first, "x")) as following:
        chatting.words(5)
        first.signal(signal.SIGTERM)
        for reader in (chatting, following):
            reader.to_the_end(5)
            assert reader.broke_off
            assert reader.error == "stopping"
        assert first.wait(10) == 0, first.log
        with follow(second, job_of(chatting)) as whole:
            assert whole.to_the_end().answered
            assert whole.text == words(80)
            assert whole.text.startswith(chatting.text)
        last = numbers(following)[-1]
        with follow(second, job_of(following), last) as rest:
            assert rest.to_the_end().answered
            assert following.text + rest.text == words(80, "x")
    assert not gpu.left


def test_who_waits_for_the_first_word_as_the_api_stops_gets_a_status(fleet, gpu):
    api, _ = fleet.start(fleet.api(drain_seconds=2), fleet.worker(**LONG))
    gpu.mode = "hang"
    with Reader(api.url, chat("w")) as reader:
        wait_until(lambda: gpu.running)
        api.signal(signal.SIGTERM)
        reader.to_the_end(5)
        assert (reader.status, reader.error) == (503, "stopping")
        assert reader.header("retry-after")
    assert api.wait(10) == 0, api.log
    other = fleet.api().start()
    assert status_of(other, job_of(reader)) == "running"
