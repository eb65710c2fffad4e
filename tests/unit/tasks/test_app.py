"""The Celery application: queues, tasks, and what a task leaves to its chain."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from ssl import CERT_NONE, CERT_REQUIRED

import pytest
from harness.records import ORDER

from tasks.app import create_app, tier_of
from tasks.errors import SettingsError
from tasks.records.batches import PHASES
from tasks.records.jobs import Queue, Ref
from tasks.records.outcomes import HandBack
from tasks.settings import Settings

ENTRY = "tasks.celery"


@pytest.fixture
def app():
    return create_app(Settings(broker_url="memory://"))


# As a message has it: the next task is the last.
CHAIN = [{"task": "tasks.cache"}, {"task": "tasks.l4"}]


class Runner:
    """Notes what a task gives it to do, and leaves what a test sets."""

    def __init__(self, left=(), outcomes=()) -> None:
        self.left, self.outcomes = list(left), list(outcomes)
        self.calls: list[tuple] = []

    def __call__(self, *call):
        *call, report = call
        self.calls.append(tuple(call))
        for outcome in self.outcomes:
            report.note(outcome)
        return self.left


def test_there_is_a_task_for_every_tier_and_phase_and_no_other(app):
    ours = {name for name in app.tasks if name.startswith("tasks.")}
    names = (*ORDER, *PHASES)
    assert ours == {f"tasks.{name}" for name in names}
    assert {app.tasks[f"tasks.{name}"].tier for name in names} == {*names}


def test_each_tier_that_is_named_has_its_task():
    app = create_app(Settings(broker_url="memory://", tiers="h100, l4,cpu"))
    ours = {name for name in app.tasks if name.startswith("tasks.")}
    assert ours == {f"tasks.{name}" for name in ("h100", "l4", "cpu", "cache", *PHASES)}


@pytest.mark.parametrize(
    ("task", "tier"),
    [
        ("tasks.l4", "l4"),
        ("tasks.gpu", "gpu"),
        ("tasks.L4", ""),
        ("tasks.l4.more", ""),
        ("tasks." + "x" * 17, ""),
        ("tasks.", ""),
        ("l4", ""),
    ],
)
def test_what_may_be_another_processs_tier_is_known_by_its_tasks_name(task, tier):
    assert tier_of(task) == tier


def test_there_is_a_queue_for_every_kind_of_work(app):
    queues = {queue.name: queue.routing_key for queue in app.conf.task_queues}
    assert queues == {queue.value: queue.value for queue in Queue}


@pytest.mark.parametrize(
    ("url", "arguments", "limited"),
    [
        ("redis://127.0.0.1/0", None, True),
        ("memory://", None, True),
        ("amqp://127.0.0.1", {"x-queue-type": "quorum"}, False),
        ("amqps://127.0.0.1", {"x-queue-type": "quorum"}, False),
    ],
)
def test_no_broker_is_waited_for_for_ever_and_rabbitmq_keeps_its_queues(url, arguments, limited):
    conf = create_app(Settings(broker_url=url)).conf
    assert [queue.queue_arguments for queue in conf.task_queues] == [arguments] * len(Queue)
    assert ("socket_timeout" in conf.broker_transport_options) is limited
    assert ("confirm_publish" in conf.broker_transport_options) is not limited
    assert ("read_timeout" in conf.broker_transport_options) is not limited
    # A consumer on a dead link knows after two of them.
    assert conf.broker_heartbeat == 3
    assert conf.broker_connection_timeout == 2
    # Nor does an error of a channel's alone end a worker.
    assert conf.broker_channel_error_retry


def test_the_broker_is_the_store_unless_it_has_its_own():
    assert (
        create_app(Settings(redis_url="redis://store:1/0")).conf.broker_url == "redis://store:1/0"
    )


@pytest.mark.parametrize(("routing_key", "queue"), [("batch", "batch"), (None, "interactive")])
def test_a_task_has_its_runner_do_the_work(app, routing_key, queue):
    app.runner = Runner([Ref("job_2", 1)])
    task = app.tasks["tasks.gpu"]
    info = {"routing_key": routing_key} if routing_key else None
    task.push_request(id="slice-1", delivery_info=info, chain=CHAIN)
    try:
        assert task.run([["job_1", 0], ["job_2", 0]]) == [Ref("job_2", 1)]
        assert task.request.chain == CHAIN
    finally:
        task.pop_request()
    refs = [Ref("job_1", 0), Ref("job_2", 0)]
    assert app.runner.calls == [("gpu", refs, queue, "l4")]


def test_where_nothing_is_left_the_chain_ends(app):
    app.runner = Runner()
    task = app.tasks["tasks.gpu"]
    task.push_request(id="slice-1", chain=CHAIN)
    try:
        assert task.run([["job_1", 0]]) == []
        assert task.request.chain is None
    finally:
        task.pop_request()


def test_a_task_knows_what_its_last_run_in_this_thread_did(app):
    task = app.tasks["tasks.gpu"]
    task.push_request(id="slice-1", chain=[])
    try:
        app.runner = Runner(outcomes=[HandBack()])
        task.run([["job_1", 0]])
        assert (task.report.event, task.report.text) == ("task-handed_back", "handed back 1")
        app.runner = Runner()
        task.run([["job_1", 0]])
        assert (task.report.event, task.report.text) == ("task-succeeded", "")
    finally:
        task.pop_request()


@pytest.fixture
def environ(monkeypatch):
    """An environment without settings of ours; the entry module is imported anew."""
    for name in [name for name in os.environ if name.startswith("FALLTHROUGH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLOWER_CONF", "")
    monkeypatch.delenv("FLOWER_CONF")
    monkeypatch.delitem(sys.modules, ENTRY, raising=False)
    yield monkeypatch
    sys.modules.pop(ENTRY, None)


def test_celery_finds_the_app_of_the_environments_settings(environ):
    environ.setenv("FALLTHROUGH_BROKER_URL", "memory://there")
    from tasks.celery import app as entry  # noqa: PLC0415 - the import is what is tested

    assert entry.conf.broker_url == "memory://there"
    assert Path(os.environ["FLOWER_CONF"]).name == "flowerconfig.py"


def test_a_setting_that_makes_no_sense_ends_celery_in_one_line(environ, capsys):
    environ.setenv("FALLTHROUGH_PORT", "many")
    with pytest.raises(SystemExit) as ended:
        import tasks.celery  # noqa: F401, PLC0415 - as above

    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said == "celery: FALLTHROUGH_PORT: 'many' is not a whole number\n"


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("broker_url", "amqp://user:hunter2@box/?nothing=hunter2"),
        ("broker_url", "amqp://user:hunter2@box/?heartbeat=hunter2"),
        ("broker_url", "amqp://user:hunter2@box/?heartbeat=5"),  # ours would not hold
        # TLS that looks at nothing, or fails when it is spoken.
        ("broker_url", "amqp://user:hunter2@box//?ssl=true"),
        ("broker_url", "amqp://user:hunter2@box//?ssl_cert_reqs=none"),
        ("broker_url", "amqps://user:hunter2@box//?ssl_version=hunter2"),
        ("broker_url", "amqp://u:p@a//;amqp://u:p@b//?transport=hunter2"),
        ("broker_url", "redis://:hunter2@box/0?ssl_cert_reqs=none"),
        ("broker_url", "redis://:hunter2@box/0?db=3"),
        ("broker_url", "redis://:hunter2@box/0?virtual_host="),
        ("broker_url", "unix:///run/hunter2.sock"),
        ("redis_url", "redis://:a;hunter2@box/0"),
        ("redis_url", "redis://:hunter2@box?db=3"),
        ("redis_url", "redis://box?password=hunter2"),
        ("broker_url", "rediss://:hunter2@box/?ssl_cert_reqs=hunter2"),
        ("redis_url", "redis://:hunter2@box/0?health_check_interval=1"),
        ("redis_url", "unix:///run/hunter2.sock"),
    ],
)
def test_a_url_that_celery_cannot_use_is_told_in_one_line(name, url):
    with pytest.raises(SettingsError, match=f"^FALLTHROUGH_{name.upper()}: Celery") as error:
        create_app(Settings(**{name: url}))
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "ssl"),
    [
        ("rediss://box", {"ssl_cert_reqs": CERT_REQUIRED}),
        ("REDISS://box", {"ssl_cert_reqs": CERT_REQUIRED}),  # it was not looked at
        ("rediss://box?ssl_cert_reqs=none", {"ssl_cert_reqs": CERT_NONE}),
        (
            "rediss://box?ssl_check_hostname=false&ssl_ca_certs=/ca",
            {
                "ssl_cert_reqs": CERT_REQUIRED,
                "ssl_check_hostname": False,
                "ssl_ca_certs": "/ca",
            },
        ),
        ("redis://box", None),
        ("AMQPS://box", None),  # its transport looks
    ],
)
def test_whoever_reads_the_brokers_url_looks_at_its_certificate_alike(url, ssl):
    app = create_app(Settings(broker_url=url))
    assert app.conf.broker_use_ssl == ssl
    assert {**(ssl or {}), **(app.connection_for_write().ssl or {})} == (ssl or {})


@pytest.mark.parametrize("url", ["AMQP://u:p@a//", "amqp://a//;AMQP://b//", "AMQPS://a"])
def test_rabbitmq_is_known_whatever_the_case_of_its_scheme(url):
    app = create_app(Settings(broker_url=url))
    assert app.conf.broker_transport_options["confirm_publish"]
    assert app.conf.task_queues[0].queue_arguments == {"x-queue-type": "quorum"}
    assert all(each.startswith("amqp") for each in app.connection_for_write().alt)


def test_flower_does_not_take_a_service_of_kubernetes_for_its_port(environ):
    environ.setenv("FLOWER_PORT", "tcp://10.0.0.1:5555")
    create_app(Settings(broker_url="memory://"))
    assert "FLOWER_PORT" not in os.environ
    environ.setenv("FLOWER_PORT", "5556")
    create_app(Settings(broker_url="memory://"))
    assert os.environ["FLOWER_PORT"] == "5556"


def test_flowers_own_settings_are_left_as_they_are(environ):
    environ.setenv("FLOWER_CONF", "mine.py")
    import tasks.celery  # noqa: F401, PLC0415 - as above

    assert os.environ["FLOWER_CONF"] == "mine.py"
