"""The tiers, breakers and slots that the settings describe."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from circuit_breaker import CircuitState
from circuit_breaker.events import CallRejected, Held, StateChanged, StoreUnavailable
from fallback_chain import BREAKER_NAMES
from tasks.records.jobs import Queue
from tasks.settings import Settings
from tasks.store.connection import LARGEST_VALUE
from tasks.tiers.build import (
    CACHE_TIMEOUT_SECONDS,
    build_breakers,
    build_tiers,
    log_event,
    tier_configs,
)
from tasks.tiers.slots import LocalSlots

BOTH = Settings(
    gpu_url="http://gpu",
    gpu_model="m",
    gpu_api_key="secret",
    gpu_timeout_seconds=7.0,
    cpu_url="http://cpu",
    cpu_timeout_seconds=9.0,
)


@pytest.fixture
def store():
    """A store that is asked for nothing yet."""
    pipeline = SimpleNamespace(commands=None, run=None)
    connection = SimpleNamespace(pipeline=pipeline, largest_content=LARGEST_VALUE)
    return SimpleNamespace(connection=connection, limits=None)


@pytest.fixture
def build(store):
    """Build tiers from settings."""

    def build(settings):
        return build_tiers(settings, store, build_breakers(settings, store.connection, log_event))

    return build


@pytest.mark.parametrize(
    ("settings", "tiers"),
    [
        (BOTH, ["gpu", "cpu"]),
        (Settings(gpu_url="http://gpu"), ["gpu"]),
        (Settings(cpu_url="http://cpu"), ["cpu"]),
        (Settings(), []),
    ],
)
def test_only_the_tiers_that_are_set_up_are_there_in_their_order(build, settings, tiers):
    assert list(tier_configs(settings)) == tiers
    assert list(build(settings).models) == tiers


def test_a_tier_is_as_the_settings_say():
    gpu, cpu = tier_configs(BOTH).values()
    assert (gpu.url, gpu.model, gpu.api_key, gpu.timeout_seconds) == (
        *("http://gpu", "m", "secret"),
        7.0,
    )
    assert (cpu.url, cpu.model, cpu.api_key, cpu.timeout_seconds) == ("http://cpu", None, None, 9.0)
    assert "secret" not in repr(gpu)


def test_each_tier_has_a_breaker_that_is_as_the_settings_say(store):
    settings = Settings(
        gpu_timeout_seconds=7.0,
        cpu_timeout_seconds=9.0,
        breaker_failure_threshold=5,
        breaker_recovery_seconds=11.0,
        breaker_success_threshold=4,
    )
    breakers = build_breakers(settings, store.connection, log_event)
    assert set(breakers) == set(BREAKER_NAMES.values())
    limits = {name: breaker.config.timeout_seconds for name, breaker in breakers.items()}
    assert limits == {"max_gpu": 7.0, "ollama_cpu": 9.0, "redis_cache": CACHE_TIMEOUT_SECONDS}
    for name, breaker in breakers.items():
        config = breaker.config
        assert breaker.name == name
        assert (config.failure_threshold, config.success_threshold) == (5, 4)
        assert config.recovery_timeout_seconds == 11.0


def test_a_tier_asks_its_own_breaker(build):
    tiers = build(BOTH)
    names = {name: tier.breaker.name for name, tier in tiers.models.items()}
    assert names == {"gpu": "max_gpu", "cpu": "ollama_cpu"}
    assert tiers.cache.breaker.name == "redis_cache"


@pytest.mark.parametrize(("at_once", "for_batches"), [(1, 1), (2, 1), (8, 7)])
def test_at_the_cpu_the_last_slot_is_kept_for_lone_requests(build, at_once, for_batches):
    slots = build(Settings(cpu_concurrency=at_once)).slots
    assert slots["cpu", Queue.INTERACTIVE]._limit == at_once
    assert slots["cpu", Queue.BATCH]._limit == for_batches


async def test_at_the_gpu_lone_requests_and_batches_share_the_slots_of_the_process(build):
    tiers = build(Settings(gpu_concurrency=2))
    lone, batch = tiers.slots["gpu", Queue.INTERACTIVE], tiers.slots["gpu", Queue.BATCH]
    assert isinstance(lone, LocalSlots)
    assert lone.try_acquire()
    assert batch.try_acquire()
    assert (lone.try_acquire(), lone.taken, batch.taken) == (None, 2, 0)


def test_the_slots_of_a_tier_are_those_of_every_queue(build):
    tiers = build(BOTH)
    both = {tiers.slots["gpu", queue] for queue in (Queue.INTERACTIVE, Queue.BATCH)}
    assert tiers.slots_of("gpu") == both
    assert len(tiers.slots_of("cpu")) == 2
    assert tiers.slots_of("cache") == set()
    assert tiers.all_slots == both | tiers.slots_of("cpu")


@pytest.mark.parametrize(
    ("event", "level", "told"),
    [
        (
            StateChanged("max_gpu", CircuitState.CLOSED, CircuitState.OPEN),
            logging.WARNING,
            "breaker max_gpu: closed -> open",
        ),
        (
            Held("max_gpu", "saturated", 7.0),
            logging.INFO,
            "breaker max_gpu: held 7.0 s, saturated",
        ),
        (
            Held("max_gpu", "misconfigured", 30.0),
            logging.ERROR,
            "breaker max_gpu: held 30.0 s, misconfigured",
        ),
        (
            StoreUnavailable("max_gpu"),
            logging.WARNING,
            "breaker max_gpu: no shared state, deciding alone",
        ),
        (CallRejected("max_gpu", "open"), None, None),
    ],
)
def test_an_operator_is_told_what_a_breaker_did_and_not_every_call(caplog, event, level, told):
    caplog.set_level(logging.DEBUG, "tasks")
    log_event(event)
    expected = [] if told is None else [(level, told)]
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == expected
