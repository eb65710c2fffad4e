"""Streams whose client goes away, waits, or is slow: one answer, or an honest end."""

from __future__ import annotations

import re
import time

import httpx
import pytest
from harness.processes import peak_mb
from harness.reader import Reader, chat
from harness.streams import LONG, PROMPT, follow, job_of, newest, numbers, status_of, submit, words
from harness.waiting import wait_until


@pytest.fixture(autouse=True)
def _left():
    yield
    while Reader.opened:
        Reader.opened.pop().leave()


# Whose client goes away


def leave_before_the_first_word(reader, gpu):
    wait_until(lambda: gpu.running)
    return reader.leave()


def leave_in_mid_stream(reader, gpu):
    reader.words(3)
    return reader.leave()


def leave_by_a_reset(reader, gpu):
    reader.words(3)
    return reader.leave(reset=True)


def leave_with_half_of_it_unread(reader, gpu):
    reader.until(lambda me: me.body)
    time.sleep(0.3)  # meanwhile more of it came
    return reader.leave()


@pytest.mark.parametrize(
    "leave",
    [
        leave_before_the_first_word,
        leave_in_mid_stream,
        leave_by_a_reset,
        leave_with_half_of_it_unread,
    ],
)
def test_who_goes_away_has_his_job_cancelled_and_its_call_ended(fleet, gpu, leave):
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 500, 0.05
    if leave is leave_before_the_first_word:
        gpu.delay = 20
    gone = leave(Reader(api.url, chat("w")), gpu)
    wait_until(lambda: gpu.left, 5)
    assert gpu.left[0] - gone < PROMPT
    wait_until(lambda: newest(api)["status"] == "cancelled", 3)
    assert (len(gpu.calls), gpu.running) == (1, 0)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("streamed", [True, False])
def test_who_goes_away_while_his_job_is_queued_has_it_cancelled(fleet, gpu, streamed, at_once):
    """At once: before it is made, so that he is gone when he begins to be waited for."""
    api = fleet.api().start()
    before = submit(api, "before")  # its first message takes an API process a moment more
    reader = Reader(api.url, chat("w", stream=streamed))
    if at_once:
        reader.leave()
    wait_until(lambda: newest(api)["id"] != before)
    reader.leave()
    wait_until(lambda: newest(api)["status"] == "cancelled", PROMPT)
    behind = submit(api, "behind")  # when it is done, his has been met
    fleet.worker().start()
    for each in (before, behind):
        wait_until(lambda each=each: status_of(api, each) == "succeeded")
    assert sorted(gpu.prompts()) == ["before", "behind"]


def test_an_sdk_that_leaves_in_mid_stream_is_not_waited_for(fleet, gpu):
    """It says which of its tries this is, but tries no more once it has begun to read."""
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 500, 0.05
    reader = Reader(api.url, chat("w"), headers={"x-stainless-retry-count": "3"}).words(3)
    gone = reader.leave()
    wait_until(lambda: gpu.left, 5)
    assert gpu.left[0] - gone < PROMPT


def test_who_has_a_key_of_his_own_comes_back_for_the_whole_answer(fleet, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 40, 0.05
    key = {"Idempotency-Key": "mine"}
    first = Reader(api.url, chat("w"), headers=key).words(5)
    first.leave()
    with Reader(api.url, chat("w"), headers=key) as again:
        assert again.to_the_end().answered
        assert again.text == words(40)
        assert job_of(again) == job_of(first)
    assert len(gpu.calls) == 1


def test_who_has_a_key_of_his_own_and_does_not_come_back_is_cancelled(fleet, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 1000, 0.05
    reader = Reader(api.url, chat("w"), headers={"Idempotency-Key": "mine"}).words(3)
    gone = reader.leave()
    wait_until(lambda: gpu.left, 15)
    assert 9 < gpu.left[0] - gone < 10 + PROMPT
    assert status_of(api, job_of(reader)) == "cancelled"


def test_who_only_follows_a_job_and_leaves_cancels_nothing(fleet, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 40, 0.05
    job_id = submit(api)
    for number in (3, 6, 9):
        follow(api, job_id).words(number).leave(reset=number == 6)
    with follow(api, job_id) as last:
        assert last.to_the_end().answered
        assert last.text == words(40)
    assert status_of(api, job_id) == "succeeded"
    assert not gpu.left


def test_one_of_two_who_wait_for_the_same_answer_may_leave(fleet, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 40, 0.05
    key = {"Idempotency-Key": "ours"}
    first = Reader(api.url, chat("w"), headers=key).words(2)
    with Reader(api.url, chat("w"), headers=key).words(4) as second:
        first.leave()
        assert second.to_the_end().answered
        assert second.text == words(40)
    assert len(gpu.calls) == 1


# Whose reader is slow


def test_a_reader_one_byte_at_a_time_gets_all(fleet, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    gpu.words = 200
    with Reader(api.url, chat("w"), buffer=1) as reader:
        while reader.take(most=1):
            pass
        assert reader.answered
        assert reader.text == words(200)


def test_readers_who_stop_reading_cost_little_and_hold_up_nobody(fleet, gpu):
    """Of an answer of 20 MB; the other one's is as fast as it was."""
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 2_000, 0.001
    large = submit(api, "x" * 10_000)
    with follow(api, large) as whole:
        assert whole.to_the_end(60).answered
    before = peak_mb(api)
    gpu.words, gpu.pace = 100, 0.01
    alone = seconds_of(lambda: Reader(api.url, chat("w")).to_the_end())
    lazy = [follow(api, large) for _ in range(20)]
    for reader in lazy:
        reader.until(lambda me: me.body)
    beside = seconds_of(lambda: Reader(api.url, chat("w")).to_the_end())
    assert beside < alone + 1
    assert peak_mb(api) - before < 100
    for reader in lazy[1:]:
        reader.leave()
    with lazy[0] as reader:
        assert reader.to_the_end(60).events == whole.events


def seconds_of(work):
    began = time.monotonic()
    work()
    return time.monotonic() - began


def test_a_reader_slower_than_his_log_is_kept_is_told_so(fleet, gpu):
    fleet.settings["FALLTHROUGH_STREAM_TTL_SECONDS"] = "1"
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 2_000, 0.001
    with Reader(api.url, chat("x" * 10_000), buffer=4096) as reader:
        reader.until(lambda me: me.body)
        wait_until(lambda: gpu.calls and not gpu.running)
        wait_until(lambda: status_of(api, job_of(reader)) == "succeeded")
        time.sleep(1.5)
        reader.to_the_end(60)
        assert reader.broke_off
        assert reader.error == "stream_gone"
        assert words(2_000, "x" * 10_000).startswith(reader.text)


def test_who_takes_nothing_for_a_minute_is_dropped_and_his_job_cancelled(fleet, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 1_000, 0.1
    with Reader(api.url, chat("x" * 28_000), buffer=4096) as reader:
        reader.until(lambda me: me.body)
        began = time.monotonic()
        wait_until(lambda: gpu.left, 90)
        assert 55 < gpu.left[0] - began < 80
        wait_until(lambda: newest(api)["status"] == "cancelled", 5)


# Who waits for the first word


def test_what_is_refused_within_ten_seconds_has_a_status_of_its_own(fleet, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    with Reader(api.url, chat("w"), headers={"x-fallthrough-tiers": "nowhere"}) as reader:
        assert reader.to_the_end().status == 400
    gpu.mode = "400"
    with Reader(api.url, chat("w")) as reader:
        reader.to_the_end()
        assert (reader.status, reader.error) == (400, "bad_n")
    gpu.mode = "hang"
    with Reader(api.url, chat("w")) as reader:
        wait_until(lambda: gpu.running)
        httpx.post(f"{api.url}/v1/jobs/{newest(api)['id']}/cancel")
        reader.to_the_end()
        assert (reader.status, reader.error) == (409, "job_cancelled")
    headers = {"x-fallthrough-deadline-seconds": "2", "x-fallthrough-on-exhausted": "fail"}
    with Reader(api.url, chat("w"), headers=headers) as reader:
        reader.to_the_end()
        assert (reader.status, reader.error) == (504, "deadline_exceeded")


def test_who_waits_longer_is_told_so_and_of_an_error_in_the_stream(fleet, gpu):
    """No worker, then one whose model is slow; three ends of it."""
    api = fleet.api().start()
    gpu.delay = 25
    cancelled, expired, answered = readers = [
        Reader(
            api.url,
            chat("w"),
            headers={
                "x-fallthrough-deadline-seconds": seconds,
                "x-fallthrough-on-exhausted": "fail",
            },
        )
        for seconds in ("60", "33", "60")
    ]
    for reader in readers:
        reader.until(lambda me: me.comments, 16)
        assert reader.status == 200
        assert reader.header("content-type") == "text/event-stream; charset=utf-8"
        assert re.fullmatch(rb": queued \d", reader.comments[0])
    fleet.worker(gpu_timeout_seconds=60, gpu_first_token_seconds=60).start()
    for reader in readers:
        reader.until(lambda me: len(me.comments) > 1, 16)
        assert reader.comments[1] == b": at gpu"
    httpx.post(f"{api.url}/v1/jobs/{job_of(cancelled)}/cancel")
    assert cancelled.to_the_end(5).broke_off
    assert cancelled.error == "cancelled"
    assert expired.to_the_end(20).broke_off
    assert expired.error == "deadline_exceeded"
    assert max(expired.pauses) < 15
    assert answered.to_the_end(20).answered
    assert answered.text == "gpu-model: w"


# Whose log is kept no longer


def test_a_stream_that_is_kept_no_longer_is_told_whole_or_not_at_all(fleet, gpu):
    fleet.settings["FALLTHROUGH_STREAM_TTL_SECONDS"] = "1"
    api, _ = fleet.start(fleet.api(), fleet.worker())
    job_id = submit(api, "one two three")
    with follow(api, job_id) as reader:
        assert reader.to_the_end().answered
        text = reader.text
    time.sleep(1.2)
    with follow(api, job_id) as reader:
        assert reader.to_the_end().answered
        assert reader.text == text
        assert numbers(reader) == [0, 1]
    for after in (0, 1, 4, 100):
        with follow(api, job_id, after) as reader:
            reader.to_the_end()
            assert (reader.status, reader.error) == (410, "stream_gone")
