"""Settings: what makes no sense is said in one line that names it."""

from __future__ import annotations

import pytest

from tasks.errors import SettingsError
from tasks.settings import Settings


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("GPU_URL", "localhost:8000", "http://host"),
        ("GPU_URL", "http://host:port", "http://host"),
        ("REDIS_URL", "http://127.0.0.1", "redis://host"),
        ("GPU_CONCURRENCY", "0", "at least 1"),
        ("GPU_CONCURRENCY", "many", "not a whole number"),
        ("GPU_CONCURRENCY", "2.5", "not a whole number"),
        ("GPU_TIMEOUT_SECONDS", "-1", "at least"),
        ("GPU_TIMEOUT_SECONDS", "nan", "out of range"),
        ("GPU_TIMEOUT_SECONDS", "inf", "out of range"),
        ("LOG_LEVEL", "loud", "INFO"),
        ("LOG_FORMAT", "xml", "auto, json or text"),
        ("PORT", "70000", "65535"),
        ("WORKER_PORT", "70000", "65535"),
        ("WORKER_QUEUES", "interactive,bulk", "interactive, batch"),
        ("GPU_ULR", "x", "did you mean FALLTHROUGH_GPU_URL"),
        ("ZZZ", "x", "fallthrough config"),
    ],
)
def test_what_makes_no_sense_is_named(name, value, said):
    with pytest.raises(SettingsError) as error:
        Settings.from_env({f"FALLTHROUGH_{name}": value})
    assert str(error.value).startswith(f"FALLTHROUGH_{name}")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_url_is_told_without_its_password():
    with pytest.raises(SettingsError) as error:
        Settings.from_env({"FALLTHROUGH_REDIS_URL": "http://user:hunter2@host"})
    assert "hunter2" not in str(error.value)


def test_what_kubernetes_sets_for_a_service_is_no_setting_of_ours():
    environ = {
        "FALLTHROUGH_API_SERVICE_HOST": "10.0.0.1",
        "FALLTHROUGH_API_SERVICE_PORT_HTTP": "8000",
        "FALLTHROUGH_API_PORT": "tcp://10.0.0.1:8000",
        "FALLTHROUGH_API_PORT_8000_TCP_ADDR": "10.0.0.1",
    }
    assert Settings.from_env(environ) == Settings()


def test_settings_survive_the_way_to_a_child_process():
    settings = Settings(gpu_url="http://gpu:8000", gpu_concurrency=7, drain_seconds=2.5)
    assert Settings.from_env(settings.environ()) == settings


def test_secrets_are_masked():
    settings = Settings(gpu_api_key="sk-secret", redis_url="redis://:hunter2@host:6379/0")
    shown = str(settings.rows())
    assert "sk-secret" not in shown
    assert "hunter2" not in shown
    assert "redis://***@host:6379/0" in shown


def test_the_broker_is_the_store_unless_it_has_its_own():
    assert Settings(redis_url="redis://a").effective_broker_url == "redis://a"
    assert Settings(redis_url="redis://a", broker_url="amqp://b").effective_broker_url == "amqp://b"


@pytest.mark.parametrize(
    ("store", "broker", "same"),
    [
        ("redis://box:6379/0", "", True),
        ("redis://box", "redis://:password@box:6379/1", True),
        ("rediss://box:6380/0", "redis://box:6379/0", False),
        ("redis://box/0", "redis://other/0", False),
        ("redis://box:5672", "amqp://box:5672//", False),
        ("unix:///run/valkey.sock?db=0", "unix:///run/valkey.sock?db=1", True),
    ],
)
def test_the_broker_is_the_store_when_both_urls_name_one_server(store, broker, same):
    assert Settings(redis_url=store, broker_url=broker).broker_is_store is same
