"""Streams whose store, or link to it, goes away: no word is lost, or an honest end."""

from __future__ import annotations

import time

import pytest
from harness.proxy import Proxy
from harness.reader import Reader, chat
from harness.streams import LONG, follow, job_of, numbers, status_of, submit, words
from harness.valkey import Snapshot
from harness.waiting import wait_until


@pytest.fixture(autouse=True)
def _left():
    yield
    while Reader.opened:
        Reader.opened.pop().leave()


# Whose store, or link to it, goes away


def both(api, prompt="w"):
    """Return a chat, and who follows a job of the same kind."""
    return Reader(api.url, chat(prompt)), follow(api, submit(api, prompt))


def check_both(readers, text):
    for reader in readers:
        with reader:
            assert reader.to_the_end().answered
            assert reader.text == text
    assert numbers(readers[1]) == list(range(len(readers[1].chunks)))


@pytest.mark.parametrize("down", [0.0, 3.0])
def test_a_store_that_restarts_in_mid_stream_costs_no_word(own_fleet, own_valkey, gpu, down):
    """It is the broker, too."""
    api, _ = own_fleet.start(own_fleet.api(), own_fleet.worker(**LONG))
    gpu.words, gpu.pace = 100, 0.03
    readers = both(api)
    for reader in readers:
        reader.words(5)
    own_valkey.kill()
    time.sleep(down)
    own_valkey.start()
    check_both(readers, words(100))
    assert len(gpu.calls) == 2


def test_a_store_that_is_away_is_no_silence(own_fleet, own_valkey, gpu):
    api, _ = own_fleet.start(own_fleet.api(), own_fleet.worker(**LONG))
    gpu.words, gpu.pace = 20, 0.05
    with Reader(api.url, chat("w")) as reader:
        reader.words(5)
        own_valkey.kill()
        reader.until(lambda me: me.comments, 15)
        own_valkey.start()
        assert reader.to_the_end().answered
        assert reader.text == words(20)


def test_a_store_that_does_not_come_back_ends_the_stream(own_fleet, own_valkey, gpu):
    """After a minute; a word about it comes every few seconds."""
    api, _ = own_fleet.start(own_fleet.api(), own_fleet.worker(**LONG))
    gpu.words, gpu.pace = 20, 0.05
    with Reader(api.url, chat("w")) as reader:
        reader.words(5)
        own_valkey.kill()
        began = time.monotonic()
        reader.to_the_end(80)
        assert 59 < time.monotonic() - began < 70
        assert reader.broke_off
        assert reader.error == "unavailable"
        assert max(reader.pauses) < 15


@pytest.fixture
def link(valkey):
    link = Proxy(valkey.url)
    yield link
    link.close()


@pytest.mark.parametrize("cut", ["reset", "finish", "forget", "freeze"])
@pytest.mark.parametrize("part", ["api", "worker"])
def test_a_link_to_the_store_that_breaks_in_mid_stream_costs_no_word(fleet, link, gpu, cut, part):
    linked = {"redis_url": link.url, "broker_url": fleet.settings["FALLTHROUGH_REDIS_URL"]}
    api = fleet.api(**linked if part == "api" else {})
    fleet.start(api, fleet.worker(**LONG, **linked if part == "worker" else {}))
    gpu.words, gpu.pace = 100, 0.03
    readers = both(api)
    for number in (5, 20, 35):
        for reader in readers:
            reader.words(number)
        getattr(link, cut)()
        if cut == "freeze":
            time.sleep(1)
            link.thaw()
    check_both(readers, words(100))
    assert len(gpu.calls) == 2


def test_a_subscription_that_is_killed_again_and_again_costs_no_word(fleet, valkey, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker(**LONG))
    gpu.words, gpu.pace = 100, 0.03
    readers = both(api)
    with valkey.client() as client:
        for number in (3, 10, 20, 30, 50):
            for reader in readers:
                reader.words(number)
            wait_until(lambda: client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))
    check_both(readers, words(100))


def test_a_store_that_lost_a_part_of_a_stream_ends_it(own_fleet, own_valkey, gpu, cpu):
    api, _ = own_fleet.start(own_fleet.api(), own_fleet.worker(**LONG))
    gpu.words, gpu.pace = 500, 0.05
    with own_valkey.client() as client, Reader(api.url, chat("w")) as reader:
        reader.words(5)
        snapshot = Snapshot(client)
        reader.words(20)
        snapshot.restore(client)
        reader.to_the_end(5)
        assert reader.broke_off
        assert reader.error == "upstream_interrupted"
        assert words(500).startswith(reader.text)
        assert status_of(api, job_of(reader)) == "failed"
    wait_until(lambda: gpu.left, 5)
    assert (len(gpu.calls), len(cpu.calls)) == (1, 0)


def test_who_has_seen_words_of_an_answer_that_the_store_lost_sees_none_of_another(
    own_fleet, own_valkey, gpu
):
    """Its store has the job as it was before it was shown: it is answered anew, in other words."""
    api, worker = own_fleet.api().start(), own_fleet.worker(**LONG)
    gpu.words, gpu.pace = 100, 0.05
    with own_valkey.client() as client:
        job_id = submit(api)
        snapshot = Snapshot(client)
        worker.start()
        with follow(api, job_id) as reader:
            reader.words(20)
            gpu.text = lambda _: " ".join(["other"] * 100)
            snapshot.restore(client)
            reader.to_the_end()
            assert reader.broke_off
            assert reader.error == "upstream_interrupted"
            assert words(100).startswith(reader.text)
    with follow(api, job_id) as another:
        assert another.to_the_end().answered
        assert another.text == " ".join(["other"] * 100)
    assert len(gpu.calls) == 2
