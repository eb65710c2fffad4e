"""The tiers, breakers and slots that the settings describe."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from harness.tls import AUTHORITY

from circuit_breaker import CircuitState, Override
from circuit_breaker.events import CallRejected, Held, Overridden, StateChanged, StoreUnavailable
from fallback_chain import BREAKER_NAMES, ChatTier, HttptoolsHttp, Need
from fallback_chain.aiohttp_http import AiohttpHttp
from fallback_chain.httpx_http import HttpxHttp
from tasks.errors import SettingsError
from tasks.records.jobs import Queue
from tasks.settings import Settings, TierSettings
from tasks.store.connection import LARGEST_VALUE
from tasks.store.limits import Share
from tasks.tiers.build import (
    CACHE_TIMEOUT_SECONDS,
    build_breakers,
    build_tiers,
    log_event,
    tier_configs,
)
from tasks.tiers.slots import AdaptiveSlots, FleetSlots, LocalSlots

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


def test_breakers_stand_in_the_order_of_the_chain_a_tiers_servers_together(store):
    settings = Settings(gpu_url="http://a,http://b", cpu_url="http://c,http://d")
    names = ["max_gpu", "max_gpu:2", "ollama_cpu", "ollama_cpu:2", "redis_cache"]
    assert list(build_breakers(settings, store.connection, log_event)) == names


def test_a_breakers_further_rules_are_those_of_the_settings(store):
    settings = Settings(
        breaker_failure_rate=0.7,
        breaker_slow_call_seconds=3.0,
        breaker_slow_call_rate=0.9,
        breaker_window_seconds=12.0,
        breaker_minimum_calls=7,
        breaker_recovery_multiplier=3.0,
        breaker_recovery_cap_seconds=99.0,
        breaker_recovery_jitter=0.2,
        breaker_ramp_seconds=8.0,
        breaker_saturation_seconds=44.0,
    )
    breakers = build_breakers(settings, store.connection, log_event)
    config = breakers["max_gpu"].config
    assert (config.failure_rate, config.slow_call_seconds, config.slow_call_rate) == (0.7, 3.0, 0.9)
    assert (config.window_seconds, config.minimum_calls) == (12.0, 7)
    assert (config.recovery_multiplier, config.recovery_cap_seconds) == (3.0, 99.0)
    assert (config.recovery_jitter, config.saturation_limit_seconds) == (0.2, 44.0)
    assert config.ramp_seconds == 8.0
    assert breakers["redis_cache"].config.ramp_seconds == 0, "a look is no load to grow used to"


def test_what_a_setting_of_0_turns_off_is_off(store):
    settings = Settings(
        breaker_failure_rate=0.0, breaker_slow_call_seconds=0.0, breaker_saturation_seconds=0.0
    )
    config = build_breakers(settings, store.connection, log_event)["max_gpu"].config
    assert config.failure_rate is None
    assert config.slow_call_seconds is None
    assert config.saturation_limit_seconds is None


def test_a_tier_asks_its_own_breaker(build):
    tiers = build(BOTH)
    names = {name: tier.breaker.name for name, tier in tiers.models.items()}
    assert names == {"gpu": "max_gpu", "cpu": "ollama_cpu"}
    assert tiers.cache.breaker.name == "redis_cache"


@pytest.mark.parametrize(("at_once", "for_batches"), [(1, 1), (2, 1), (8, 7)])
def test_at_the_cpu_the_last_slot_is_kept_for_lone_requests(build, at_once, for_batches):
    slots = build(Settings(cpu_concurrency=at_once)).slots
    assert slots["cpu", Queue.INTERACTIVE].limit == at_once
    assert slots["cpu", Queue.BATCH].limit == for_batches


@pytest.mark.parametrize("tier", ["gpu", "cpu"])
@pytest.mark.parametrize(("reserved", "for_batches"), [(0, 8), (3, 5), (8, 1), (9, 1)])
def test_batches_leave_as_many_slots_as_are_set(build, tier, reserved, for_batches):
    at_once = {f"{tier}_concurrency": 8, f"{tier}_reserved": reserved}
    slots = build(Settings(**at_once)).slots
    assert slots[tier, Queue.INTERACTIVE].limit == 8
    assert slots[tier, Queue.BATCH].limit == for_batches


def test_they_leave_as_many_of_a_limit_that_adapts(build):
    slots = build(Settings(gpu_url="http://gpu", gpu_limit="4..256", gpu_reserved=6)).slots
    assert slots["gpu", Queue.BATCH]._share == Share("gpu", 4, 256, reserved=6)


def test_a_limit_that_adapts_takes_the_place_of_a_fixed_one(build):
    tiers = build(Settings(gpu_url="http://gpu", cpu_url="http://cpu", gpu_limit="4..256"))
    lone, batch = tiers.slots["gpu", Queue.INTERACTIVE], tiers.slots["gpu", Queue.BATCH]
    assert isinstance(lone, AdaptiveSlots)
    assert (lone._share, batch._share) == (
        Share("gpu", 4, 256),
        Share("gpu", 4, 256, reserved=1),
    )
    adapts = {name: tier.config.adapts for name, tier in tiers.models.items()}
    assert adapts == {"gpu": True, "cpu": False}
    assert type(tiers.slots["cpu", Queue.BATCH]) is FleetSlots


@pytest.mark.parametrize("tier", ["gpu", "cpu"])
def test_what_the_fleet_shares_ramps_up_for_lines_and_is_whole_for_lone_jobs(
    build, monkeypatch, tier
):
    slots = build(Settings(gpu_url="http://gpu", gpu_limit="4..64", cpu_url="http://cpu")).slots
    monkeypatch.setattr(ChatTier, "share", 0.25)
    assert slots[tier, Queue.BATCH]._part == 0.25
    assert slots[tier, Queue.INTERACTIVE]._part == 1


def test_what_one_queue_knows_of_a_limit_that_adapts_the_other_does(build):
    slots = build(Settings(gpu_url="http://gpu", gpu_limit="4..64")).slots
    slots["gpu", Queue.BATCH].limit = 40
    assert slots["gpu", Queue.INTERACTIVE].limit == 40


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
            Overridden("max_gpu", Override.OPEN, "ann", "a new model"),
            logging.WARNING,
            "breaker max_gpu: opened by hand, ann: a new model",
        ),
        (
            Overridden("max_gpu", Override.NONE, "", ""),
            logging.WARNING,
            "breaker max_gpu: no longer overridden, nobody named: no reason given",
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


@pytest.mark.parametrize(
    ("name", "client"),
    [
        ("auto", HttptoolsHttp),
        ("aiohttp", AiohttpHttp),
        ("httpx", HttpxHttp),
    ],
)
def test_who_asks_the_servers_is_a_setting(build, name, client):
    assert isinstance(build(Settings(http_client=name)).http, client)


def test_authorities_are_read_at_the_start(build, tmp_path):
    assert (
        build(Settings(ca_file=str(AUTHORITY), http_client="aiohttp")).http._authorities
        == AUTHORITY.read_bytes()
    )
    (tmp_path / "empty").write_text("")
    for name, why in {"nowhere": "No such file", "empty": "no certificate"}.items():
        with pytest.raises(SettingsError, match=f"FALLTHROUGH_CA_FILE: .*{why}"):
            build(Settings(ca_file=str(tmp_path / name)))


# Tiers that are named

NAMED = Settings(
    tiers="h100,l4,t4,cpu",
    cpu_url="http://cpu",
    more_tiers=(
        ("h100", TierSettings("http://a,http://b", "big", "secret", 9.0, concurrency=3)),
        ("l4", TierSettings("http://l4", accepts="json", check=1, fleet_concurrency=5)),
    ),
)


def test_named_tiers_are_there_in_their_order_as_the_settings_say(build):
    h100, l4, cpu = tier_configs(NAMED).values()
    assert (h100.name, h100.model, h100.api_key, h100.timeout_seconds) == (
        *("h100", "big", "secret"),
        9.0,
    )
    assert (h100.checked, h100.accepts, l4.checked, l4.accepts) == (False, None, True, {Need.JSON})
    assert (h100.strict_finish, cpu.name) == (True, "cpu")
    assert list(build(NAMED).models) == ["h100", "l4", "cpu"], "t4 has no server"


def test_each_server_of_a_named_tier_has_a_breaker(store):
    breakers = build_breakers(NAMED, store.connection, log_event)
    limits = {name: breaker.config.timeout_seconds for name, breaker in breakers.items()}
    assert limits == {
        "tier_h100": 9.0,
        "tier_h100:2": 9.0,
        "tier_l4": 60.0,
        "tier_t4": 60.0,
        "ollama_cpu": 120.0,
        "redis_cache": CACHE_TIMEOUT_SECONDS,
    }


def test_calls_at_once_are_counted_for_each_process_or_for_the_fleet(build):
    slots = build(NAMED).slots
    kinds = {
        tier: (type(slots[tier, Queue.INTERACTIVE]), slots[tier, Queue.INTERACTIVE].limit)
        for tier in ("h100", "l4", "t4", "cpu")
    }
    assert kinds == {
        "h100": (LocalSlots, 3),
        "l4": (FleetSlots, 5),
        "t4": (LocalSlots, 64),
        "cpu": (FleetSlots, 2),
    }
    assert slots["l4", Queue.BATCH].limit == 4
