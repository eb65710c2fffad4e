"""Settings: what makes no sense is said in one line that names it."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from cli.client import Client
from fallback_chain import (
    BREAKER_NAMES,
    HttptoolsHttp,
    Need,
    normalise_url,
    parse_accepts,
    split_urls,
)
from fallback_chain.httpx_http import with_ascii_host
from tasks.errors import SettingsError
from tasks.records.batches import PHASES
from tasks.records.order import CACHE
from tasks.records.policies import tier_names
from tasks.setting_kinds import NEEDS, NO_TIERS, masked_url
from tasks.settings import SEED_TIERS, Settings, TierSettings, specs_of
from tasks.tiers.build import tier_configs

SECRET = "hunter2"  # noqa: S105 - made up
KEYS = ("GPU_API_KEY", "CPU_API_KEY", "API_KEY")
SERVERS = ("GPU_URL", "CPU_URL", "API_URL", "PROXY")
MODELS = ("GPU_MODEL", "CPU_MODEL")
HOSTS = ("HOST", "WORKER_HOST")
STORES = ("REDIS_URL", "BROKER_URL")


def read(**values):
    """The settings of a process with these variables."""
    return Settings.from_env({f"FALLTHROUGH_{name}": value for name, value in values.items()})


def refusal(**values):
    """What is said of settings that are refused: one line that begins with the variable."""
    with pytest.raises(SettingsError) as error:
        read(**values)
    said = str(error.value)
    assert said.startswith(f"FALLTHROUGH_{next(iter(values))}: ")
    assert said.isprintable()  # of one line
    # Nor would a traceback tell more.
    assert error.value.__cause__ is None
    assert error.value.__context__ is None or error.value.__suppress_context__
    return said


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
        # An OverflowError in the middle of a job, of a drain, of a script.
        ("GPU_TIMEOUT_SECONDS", "1e15", "at most 1000000000"),
        ("DRAIN_SECONDS", "1e10", "at most 1000000000"),
        ("MAX_QUEUED_JOBS", "9" * 20, "at most"),
        ("GPU_PRIORITY", "sglang", "not one of off, vllm, dynamo"),
        ("GPU_LIMIT", "9..4", "no lowest..highest"),
        ("CPU_LIMIT", "0..4", "no lowest..highest"),
        ("GPU_LIMIT", "64", "no lowest..highest"),
        ("LOG_LEVEL", "loud", "INFO"),
        ("LOG_FORMAT", "xml", "auto, json or text"),
        ("PORT", "70000", "65535"),
        ("WORKER_PORT", "70000", "65535"),
        ("WORKER_QUEUES", "interactive,bulk", "interactive, batch"),
        ("GPU_ULR", "x", "did you mean FALLTHROUGH_GPU_URL"),
        ("ZZZ", "x", "fallthrough config"),
        ("DEGRADED_MESSAGE", "bye \udcff", "no UTF-8"),  # no answer could be made of it
    ],
)
def test_what_makes_no_sense_is_named(name, value, said):
    assert said in refusal(**{name: value})


LISTS = {
    "WORKER_QUEUES": ("interactive", "batch"),
    "TIERS": ("gpu", "cpu"),
    "BATCH_TIERS": ("gpu", "cpu"),
    "GPU_ACCEPTS": ("json", "tools"),
    "GPU_URL": ("http://one", "http://two"),
    "NO_PROXY": ("a.example", "b.example"),
    "ALLOWED_HOSTS": ("a.example", "b.example"),
    "CORS_ORIGINS": ("http://a.example", "http://b.example"),
    "API_KEYS": ("ann=0123456789abcdef", "bob=0123456789abcdeg"),
}


def test_the_lists_are_all_that_there_are():
    several = [spec.name.upper() for spec in specs_of(Settings) if "," in str(spec.default)]
    assert set(several) <= LISTS.keys()


@pytest.mark.parametrize("between", [", ", " ,", "\n,\t"])
@pytest.mark.parametrize("name", LISTS)
def test_blanks_around_the_commas_of_a_list_are_none_of_it(name, between):
    read(**{name: between.join(LISTS[name])})


@pytest.mark.parametrize(
    ("queues", "each_once"),
    [
        ("interactive,batch", ("interactive", "batch")),
        (" batch , interactive", ("batch", "interactive")),
        (",batch,batch, ", ("batch",)),
    ],
)
def test_a_worker_consumes_each_queue_once(queues, each_once):
    assert read(WORKER_QUEUES=queues).queues == each_once


URLS = ("{}", "{}/", "{}/v1", "{}/v1/", "{}/v1/chat/completions", "{}/v1/chat/completions/", " {} ")


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("server", ["http://box:8000", "https://box/llm"])
def test_a_server_is_the_same_however_its_url_ends(url, server):
    settings = read(API_URL=url.format(server), GPU_URL=url.format(server))
    with Client(settings.api_url) as client:
        assert client.url == server
    assert normalise_url(settings.gpu_url) == f"{server}/v1"


def test_a_variable_of_two_lines_is_named_in_one():
    with pytest.raises(SettingsError, match=r"^'FALLTHROUGH_GPU\\nURL': no such setting") as error:
        read(**{"GPU\nURL": "http://gpu"})
    assert str(error.value).isprintable()


@pytest.mark.parametrize("blanks", ["\n", "\r\n", " ", "\t", "\u00a0"])
@pytest.mark.parametrize("spec", specs_of(Settings), ids=lambda spec: spec.name)
def test_blanks_around_a_value_are_none_of_it(spec, blanks):
    values = {
        "redis_url": "redis://:pw@box:1/2",
        "broker_url": "amqp://user:pw@box:1//",
        "durable": "always",
        "flower_url": "https://flower.example/?a=b#c",
        "files_url": "s3://bucket/some path",
        "keys_file": "/run/some keys",
        "degraded_message": "Later.\nReally.",
        "api_keys": "ann=0123456789abcdef,\nroot!=0123456789abcdef",
        "host": "::1",
        "worker_host": "worker_1.internal",
        "worker_queues": "batch",
        "log_level": "DEBUG",
        "log_format": "json",
        **{name.lower(): "sk-0" for name in KEYS},
        **{name.lower(): "http://box:8000/v1" for name in SERVERS},
        **{name.lower(): "org/model:8b q4" for name in MODELS},
    }
    value = values.get(spec.name, str(spec.default))
    settings = read(**{spec.name.upper(): f"{blanks}{value}{blanks}"})
    assert str(getattr(settings, spec.name)) == value


# What a bearer key may not be: of each, a client raises an error that shows it, or sends another.
@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize(
    "key",
    [
        *(f"{SECRET}\n{SECRET}", f"{SECRET}\r{SECRET}", f"{SECRET}\t{SECRET}", f"{SECRET}\x7f"),
        *(f"{SECRET}\x1b[0m", f"{SECRET}é", f"{SECRET}\udcff", f"{SECRET}…", f"\ufeff{SECRET}"),
        *(f"Bearer {SECRET}", f"{SECRET} # the key of May", f"{SECRET}\u00a0{SECRET}"),
    ],
)
def test_what_no_header_can_carry_is_no_key_and_is_not_shown(name, key):
    said = refusal(**{name: key})
    assert SECRET not in said
    assert "give the key alone" in said


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize(
    "url",
    [
        f"{SECRET}.example",  # refused before, too, but shown
        f"ftp://user:{SECRET}@host",  # it was refused before, and is not to be shown now
        *(f"http://ho st/{SECRET}", f"http://host\n/{SECRET}", f"http://host/{SECRET}\x00"),
        *(f"http://{SECRET}\u0007host", f"http://host/{SECRET}\udcff"),
        *(f"http:///{SECRET}", f"http://:8000/{SECRET}", f"http://user:{SECRET}@"),
        *(f"http://a..b/{SECRET}", f"http://.a/{SECRET}", f"http://{SECRET}{'a' * 64}"),
        *(f"http://{SECRET}*", f"http://a%20{SECRET}", f"http://a,{SECRET}", f"http://<{SECRET}>"),
        *(f"http://-ü/{SECRET}", f"http://☃.net/{SECRET}", f"http://xn--a/{SECRET}"),
        *(
            f"http://1.2.3.999/{SECRET}",
            f"http://010.1.1.1/{SECRET}",
            f"http://010.1/{SECRET}",
            f"http://1.2.3.04./{SECRET}",
            f"http://017700000001/{SECRET}",
            f"http://{SECRET}.1",
            f"http://1.2.3.4.5/{SECRET}",
        ),
        *(
            f"http://::1/{SECRET}",
            f"http://[::1/{SECRET}",
            f"http://[{SECRET}]",
            f"http://[::1]{SECRET}",
        ),
        *(f"http://[fe80::1%25eth0]/{SECRET}", f"http://[10.0.0.1]/{SECRET}"),
        *(f"http://host:0/{SECRET}", f"http://host:65536/{SECRET}", f"http://host:{SECRET}"),
        *(
            f"http://host:-1/{SECRET}",
            f"http://host:80 /{SECRET}",
            f"http://host:\uff18\uff10/{SECRET}",
        ),
        *(
            f"http://host/v1?key={SECRET}",
            f"http://host/v1#{SECRET}",
            f"http://{SECRET}?",
            "http://h#",
        ),
        # Of two readers of it, each finds another host.
        *(f"http://host\\@{SECRET}", f"http:\\\\{SECRET}", f"http://a\\{SECRET}"),
        *(
            f"http://user:{SECRET}#@host",
            f"http://user:{SECRET}/@host",
            f"http://user:1/{SECRET}?@h",
        ),
    ],
)
def test_what_is_no_servers_url_is_refused_and_not_shown(name, url):
    said = refusal(**{name: url})
    assert SECRET not in said
    assert "http://host" in said or "query" in said


# Every form that worked before, and where it leads.
@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://gpu", "http://gpu/v1"),
        ("http://gpu/", "http://gpu/v1"),
        ("http://gpu:8000/v1", "http://gpu:8000/v1"),
        ("http://gpu:8000/v1/", "http://gpu:8000/v1"),
        ("http://gpu:8000/v1/chat/completions", "http://gpu:8000/v1"),
        ("http://gpu:8000//", "http://gpu:8000/v1"),
        ("https://gpu.example./proxy/gpu 1/v1", "https://gpu.example./proxy/gpu 1/v1"),
        ("HTTPS://GPU.Example:443", "HTTPS://GPU.Example:443/v1"),
        ("http://max-serve_1:65535", "http://max-serve_1:65535/v1"),
        ("http://gpu:/v1", "http://gpu:/v1"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1/v1"),
        ("http://127.1", "http://127.1/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ("http://[::ffff:10.0.0.1]/v1", "http://[::ffff:10.0.0.1]/v1"),
        ("http://bücher.example/ü", "http://bücher.example/ü/v1"),
        ("http://user:p%40ss@gpu/v1", "http://user:p%40ss@gpu/v1"),
        ("http://user@gpu", "http://user@gpu/v1"),
        ("http://us@er:p@ss@gpu", "http://us@er:p@ss@gpu/v1"),
    ],
)
def test_what_leads_to_a_server_is_taken_as_it_is(url, base):
    settings = read(GPU_URL=url, CPU_URL=url, API_URL=url)
    assert settings.gpu_url == settings.cpu_url == settings.api_url == url
    assert normalise_url(settings.gpu_url) == base
    assert HttptoolsHttp(connect_timeout_seconds=1)._target(base)


PIECES = [
    *"aZ09._-:@[]%\\/?# \t\n*,üß日й\u3002\u200b\u2028\uff41",
    "[::1]",
    "1.2.3.",
    "0x",
]
AUTHORITIES = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@given(AUTHORITIES)
def test_every_url_that_is_taken_is_one_for_the_tiers_client_too(authority):
    url = f"http://{authority}"
    try:
        settings = read(GPU_URL=url)
    except SettingsError:
        return
    http = HttptoolsHttp(connect_timeout_seconds=1)
    for each in split_urls(settings.gpu_url):
        assert http._target(normalise_url(each))  # it raises: within a job
        assert httpx.URL(with_ascii_host(normalise_url(each))).host


@given(AUTHORITIES)
def test_every_proxy_that_is_taken_is_one_for_both_clients(authority):
    try:
        proxy = read(PROXY=f"http://{authority}").proxy
    except SettingsError:
        return
    assert URL(proxy).host
    Client("http://host", proxy=proxy).close()


@pytest.mark.parametrize(
    "url", ["HTTP://proxy:3128/", "https://us%40er:p%2F@10.0.0.1", "http://[::1]"]
)
def test_a_proxy_is_taken_as_it_is(url):
    assert read(PROXY=url).proxy == url
    assert "p%2F" not in str(read(PROXY=url).rows())


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        *(("", ""), ("*", ""), ("a.example, .b, *.c,", ""), ("10.0.0.0/8, fd00::/8, ::1", "")),
        *(("http://a", "'http://a' is"), ("a b", "'a b' is"), ("1.2.3.4/40", "is no host name")),
    ],
)
def test_exceptions_of_the_proxy_are_hosts_domains_and_networks(names, fault):
    if not fault:
        assert read(NO_PROXY=names).no_proxy == names.strip()
    else:
        assert fault in refusal(NO_PROXY=names)


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize(
    "url",
    [
        # A port beyond 65535 was refused before: it stays so.
        *(f"redis://:{SECRET}@ho st", f"redis://:{SECRET}@host:0", f"redis://:{SECRET}@host:70000"),
        *(f"redis://:{SECRET}@host\n", f"redis://:{SECRET}@a..b", f"redis://:{SECRET}\udcff@host"),
        *(f"redis://:{SECRET}/x@host", f"redis://:x#{SECRET}@host", f"redis://:x?{SECRET}@host"),
        *(
            f"rediss://[{SECRET}",
            f"redis://{SECRET}]",
            f"http://{SECRET}",
            SECRET,
            f":{SECRET}@host",
        ),
    ],
)
def test_what_is_no_stores_url_is_refused_and_not_shown(name, url):
    said = refusal(**{name: f"{url}/\n/" if url.endswith("\n") else url})
    assert SECRET not in said
    assert "redis://host" in said


@pytest.mark.parametrize(
    "url",
    [
        *("redis://box", "redis://:6379/0", "redis://:p a%3Fss@box:1/2"),
        *(
            "redis://box/0?socket_timeout=9",
            "redis://[::1]:6379",
            "rediss://user:pass@box",
            "unix:///run/v.sock?db=1",
        ),
        "redis://[fe80::1%eth0]:6379",
    ],
)
def test_a_stores_url_goes_on_working(url):
    assert read(REDIS_URL=url).redis_url == url


@pytest.mark.parametrize(
    "url", ["amqp://a:1//;amqp://b:2//", "amqps://u:p@box:5671/x", "memory://"]
)
def test_a_brokers_url_goes_on_working(url):
    assert read(BROKER_URL=url).broker_url == url


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize(
    "path",
    [
        *("/x", "/1/2", "/1.5", "/-1", "/ 1", "/0x1", "/1e3", "/٣", "/9999999999", "/%2F1x", "/1/"),
        "///1",
    ],
)
def test_a_database_is_the_same_for_all_who_read_it(name, path):
    assert "no database" in refusal(**{name: f"redis://:{SECRET}@host{path}"})


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("path", ["", "/", "/0", "/15", "/%31", "//1"])
def test_a_database_is_a_number_or_none(name, path):
    assert read(**{name: f"REDIS://h{path}"})


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize(
    "url", ["unix://", "unix:///", "unix://run/v.sock", "unix://u:p@run/v.sock"]
)
def test_a_socket_has_a_path_and_no_host(name, url):
    assert "unix:///path" in refusal(**{name: url})
    assert read(**{name: "unix://u:p@/run/v.sock"})


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        (f"amqp://a//;u:{SECRET}@b//", "parted by ;"),
        (f"amqp://u:a;{SECRET}@b//", "%3B"),
        ("redis://a/0;", "parted by ;"),
        (f"amqp://a// ;amqp://u:{SECRET}@b//", "there are blanks"),
        (f"amqp://a// ; amqp://u:{SECRET}@b//", "without blanks"),
        (f"amqp://a//;redis://:{SECRET}@b/0", "of one kind"),
        (f"amqps://a//;amqp://u:{SECRET}@b//", "of one kind"),  # a password in clear
        (f"redis://a/0;redis://:{SECRET}@b/x", "no database"),
    ],
)
def test_of_several_brokers_each_is_one(url, fault):
    said = refusal(BROKER_URL=url)
    assert fault in said
    assert SECRET not in said


def test_each_of_several_brokers_is_looked_at():
    assert SECRET not in refusal(BROKER_URL=f"amqp://a//;amqp://u:{SECRET}@b c//")


@pytest.mark.parametrize("name", ["REDIS_URL", "API_URL"])
def test_what_must_be_somewhere_is_not_set_to_nothing(name):
    assert "://host" in refusal(**{name: " "})


def test_what_need_not_be_set_may_be_set_to_nothing():
    empty = ("BROKER_URL", "GPU_URL", "CPU_URL", "FLOWER_URL", "FILES_URL", *KEYS, *MODELS)
    assert read(**dict.fromkeys(empty, "")) == Settings()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("model", ["a\nb", "a\x00b", "a\x1bb", "a\x85b", "a\udcffb"])
def test_a_models_name_is_one_line_that_json_can_hold(name, model):
    assert "it has" in refusal(**{name: model})


@pytest.mark.parametrize("name", ["KEYS_FILE", "FILES_URL"])
def test_a_path_has_no_control_characters(name):
    assert "control characters" in refusal(**{name: "/a\nb"})
    assert read(**{name: "/a b/\udcff"})  # the system's names are bytes


@pytest.mark.parametrize("name", ["KEYS_FILE", "CA_FILE"])
def test_a_path_may_begin_at_home_as_no_shell_has_read_it_in_a_file_of_settings(name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    paths = {"~/a b": "/home/ann/a b", "~no-such-user/a": "~no-such-user/a", "a/~": "a/~"}
    for path, found in paths.items():
        settings = read(**{name: path})
        assert getattr(settings, name.lower()) == found
        assert settings.environ() == {f"FALLTHROUGH_{name}": found}


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize(
    "host", ["a b", "a\nb", "a..b", "[::1]", "::g", "1.2.3.999", "010.1.1.1", "host:80", "http://a"]
)
def test_what_is_no_host_to_listen_on_is_refused(name, host):
    assert "no host name and no address" in refusal(**{name: host})


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "::1", "fe80::1%lo", "localhost", "api_1"])  # noqa: S104
def test_a_host_to_listen_on_is_taken(name, host):
    assert getattr(read(**{name: host}), name.lower()) == host


@pytest.mark.parametrize(("url", "key"), [("GPU_URL", "GPU_API_KEY"), ("API_URL", "API_KEY")])
def test_a_request_carries_either_a_key_or_a_password(url, key):
    said = refusal(**{url: f"http://user:{SECRET}@host", key: "sk-0"})
    assert SECRET not in said
    assert f"FALLTHROUGH_{key} is set" in said
    assert read(**{url: f"http://user:{SECRET}@host"})


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("http://a:1,http://b:2", ["http://a:1", "http://b:2"]),
        ("http://a/v1 ,\n https://b/v1,", ["http://a/v1", "https://b/v1"]),
        ("http://u:p,q@a,http://b", ["http://u:p,q@a", "http://b"]),
    ],
)
def test_a_tier_may_have_several_servers(text, urls):
    settings = read(GPU_URL=text, CPU_URL=text)
    for config in tier_configs(settings).values():
        assert [each.url for each in config.endpoints] == urls


def test_of_several_servers_each_is_looked_at_and_none_of_their_passwords_is_shown():
    urls = f"http://u:{SECRET}1@a,http://u:{SECRET}2@b"
    [row] = [row for row in read(GPU_URL=urls).rows() if row.variable == "FALLTHROUGH_GPU_URL"]
    assert row.value == "http://***@a, http://***@b"
    assert "http://host" in refusal(GPU_URL=f"http://a, http://u:{SECRET}@b:x")
    assert "http://host" in refusal(GPU_URL=",")
    assert "http://host" in refusal(GPU_URL="http://a,b")
    said = refusal(GPU_URL=f"http://a,http://u:{SECRET}@b", GPU_API_KEY="sk-0")
    assert "FALLTHROUGH_GPU_API_KEY is set" in said
    assert "http://host" in refusal(API_URL="http://a,http://b"), "of the API there is one"


def test_a_link_for_people_carries_no_password():
    assert SECRET not in refusal(FLOWER_URL=f"http://user:{SECRET}@flower")


def test_of_several_wrong_settings_the_first_is_told():
    assert "GPU_URL" in refusal(GPU_URL="x", GPU_API_KEY="a b", CPU_URL="y")


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
    shown = f"{settings.rows()} {settings!r} {settings}"
    assert "sk-secret" not in shown
    assert "hunter2" not in shown
    assert "redis://***@host:6379/0" in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host:1/v1", "http://host:1/v1"),
        (f"http://user:{SECRET}@host", "http://***@host"),
        (f"redis://user:1/{SECRET}@host", "redis://***@host"),
        (f"redis://:x#{SECRET}@host", "redis://***@host"),
        (f"redis://h/0?password={SECRET}&db=1", "redis://h/0?password=***&db=***"),
        (f"amqp://u:{SECRET}@a//;amqp://u:{SECRET}@b//", "amqp://***@b//"),
        (f"simplecache::s3://id:{SECRET}@bucket/x", "simplecache::s3://***@bucket/x"),
        ("/a@b/c?d=e", "/a@b/c?d=e"),
    ],
)
def test_a_url_is_shown_without_what_only_its_server_may_know(url, shown):
    assert masked_url(url) == shown


def test_a_message_for_people_is_shown_as_it_is():
    message = "See https://status.example/?a=b or write to us@example"
    assert message in str(Settings(degraded_message=message).rows())


def test_the_broker_is_the_store_unless_it_has_its_own():
    assert Settings(redis_url="redis://a").effective_broker_url == "redis://a"
    assert Settings(redis_url="redis://a", broker_url="amqp://b").effective_broker_url == "amqp://b"
    several = Settings(broker_url="AMQP://U:P@A//;Amqp://b//")
    assert several.effective_broker_url == "amqp://U:P@A//;amqp://b//"


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


def test_the_tiers_of_a_batch_are_named_as_jobs_fall_through():
    known = Settings.from_env({"FALLTHROUGH_BATCH_TIERS": " gpu, cache "})
    assert tier_names(known.batch_tiers) == ("gpu", "cache")
    with pytest.raises(SettingsError, match="BATCH_TIERS: 'degraded' is not one of"):
        Settings.from_env({"FALLTHROUGH_BATCH_TIERS": "gpu,degraded"})


def test_needs_are_named_as_the_tiers_name_them():
    assert {*NEEDS} == {"text", *Need}


@pytest.mark.parametrize("name", ["GPU_ACCEPTS", "CPU_ACCEPTS"])
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", ""),
        ("text", ""),
        ("json, Tools", ""),
        ("json,cookies", "'cookies' is not one of text, schema, json"),
        ("json,,", "'' is not one of text"),
        ("embeddings", ""),
        ("embeddings, json", "embeddings stands alone"),
    ],
)
def test_what_a_tier_accepts_is_named_in_known_words(name, text, fault):
    environ = {f"FALLTHROUGH_{name}": text}
    if not fault:
        assert getattr(Settings.from_env(environ), name.lower()) == text
        parse_accepts(text)
    else:
        with pytest.raises(SettingsError, match=f"FALLTHROUGH_{name}: {fault}"):
            Settings.from_env(environ)


@pytest.mark.parametrize(
    ("text", "strict"),
    [("1", {"gpu", "cpu"}), ("0", set()), ("gpu", {"gpu"}), ("cpu", {"cpu"}), ("no", None)],
)
def test_tiers_of_which_an_answer_must_say_why_it_ended(text, strict):
    environ = {
        "FALLTHROUGH_STRICT_FINISH": text,
        "FALLTHROUGH_GPU_URL": "http://g",
        "FALLTHROUGH_CPU_URL": "http://c",
    }
    if strict is None:
        with pytest.raises(SettingsError, match="STRICT_FINISH: 'no' is no 1, 0, gpu or cpu"):
            Settings.from_env(environ)
    else:
        configs = tier_configs(Settings.from_env(environ))
        assert {name for name, config in configs.items() if config.strict_finish} == strict


def test_only_the_gpu_tiers_answers_pass_whatever_they_are():
    urls = {"gpu_url": "http://g", "cpu_url": "http://c"}
    checked = {n: c.checked for n, c in tier_configs(Settings(**urls)).items()}
    assert checked == {"gpu": False, "cpu": True}
    assert tier_configs(Settings(**urls, check_gpu=1))["gpu"].checked
    needs = tier_configs(Settings(**urls, cpu_accepts="text", gpu_accepts="json"))
    assert (needs["gpu"].accepts, needs["cpu"].accepts) == ({Need.JSON}, frozenset())


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@box/0?nothing=hunter2",
        # The client knows them; we would not understand its replies, or ask another server.
        "redis://:hunter2@box/0?decode_responses=true",
        "redis://:hunter2@box/0?protocol=3",
        "redis://:hunter2@box/0?host=hunter2",
        "unix:///run/x.sock?path=/hunter2",
    ],
)
def test_an_option_of_the_store_that_is_not_for_all_who_read_it_is_refused(url):
    with pytest.raises(SettingsError, match=r"^FALLTHROUGH_REDIS_URL: one of its options") as error:
        read(REDIS_URL=url)
    assert "hunter2" not in str(error.value)


# Tiers that are named

THREE = {
    "FALLTHROUGH_TIERS": "h100, l4,cpu",
    "FALLTHROUGH_H100_URL": "http://h100-1:8000,http://h100-2:8000",
    "FALLTHROUGH_H100_API_KEY": "secret",
    "FALLTHROUGH_H100_LIMIT": "4..256",
    "FALLTHROUGH_L4_URL": "http://l4:8000",
    "FALLTHROUGH_L4_FLEET_CONCURRENCY": "8",
    "FALLTHROUGH_CPU_URL": "http://cpu:11434",
}


def test_each_tier_that_is_named_has_settings_of_its_own():
    settings = Settings.from_env(THREE)
    tiers = settings.model_tiers
    assert list(tiers) == ["h100", "l4", "cpu"]
    assert (tiers["h100"].limit, tiers["h100"].concurrency) == ("4..256", 64)
    assert (tiers["l4"].url, tiers["l4"].fleet_concurrency) == ("http://l4:8000", 8)
    assert tiers["cpu"] == Settings(cpu_url="http://cpu:11434").model_tiers["cpu"]
    assert Settings.from_env(settings.environ()) == settings


def test_the_two_of_the_seed_are_the_default():
    assert list(Settings().model_tiers) == ["gpu", "cpu"]
    gpu, cpu = Settings(gpu_concurrency=9, cpu_concurrency=3).model_tiers.values()
    assert (gpu.calls_here, gpu.fleet_concurrency, gpu.check) == (9, 0, 0)
    assert (cpu.calls_here, cpu.fleet_concurrency, cpu.check) == (1, 3, 1)


def test_whatever_can_be_set_of_a_seeds_tier_is_read_into_it():
    """A field that is added to one of them, and forgotten in the other place, would do nothing."""
    for tier in SEED_TIERS:
        other = {"cpu": {"concurrency", "check"}, "gpu": {"fleet_concurrency", "wait_seconds"}}
        for spec in specs_of(TierSettings):
            if spec.name in other[tier]:
                continue
            name = {("cpu", "fleet_concurrency"): "cpu_concurrency", ("gpu", "check"): "check_gpu"}
            value = spec.default + 7 if isinstance(spec.default, int | float) else "4..5"
            settings = Settings(**{name.get((tier, spec.name), f"{tier}_{spec.name}"): value})
            assert getattr(settings.model_tiers[tier], spec.name) == value


def test_named_tiers_are_shown_without_their_keys():
    shown = {row.variable: row.value for row in Settings.from_env(THREE).rows()}
    assert shown["FALLTHROUGH_H100_API_KEY"] == "********"
    assert shown["FALLTHROUGH_L4_FLEET_CONCURRENCY"] == "8"
    assert "secret" not in repr(Settings.from_env(THREE))


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"TIERS": ""}, "TIERS: '' can be no tier's name"),
        ({"TIERS": "gpu,,cpu"}, "TIERS: '' can be no tier's name"),
        ({"TIERS": "GPU"}, "TIERS: 'GPU' can be no tier's name"),
        ({"TIERS": "l-4"}, "TIERS: 'l-4' can be no tier's name"),
        ({"TIERS": "x" * 17}, "can be no tier's name"),
        ({"TIERS": "gpu,cpu,gpu"}, "TIERS: it names gpu more than once"),
        *(({"TIERS": f"gpu,{name}"}, f"'{name}' can be no tier's name") for name in NO_TIERS),
        (
            {"TIERS": "gpu,api"},
            "TIERS: a tier cannot be named api: FALLTHROUGH_API_URL is a setting",
        ),
        ({"TIERS": "key"}, "a tier cannot be named key: FALLTHROUGH_KEY_CONCURRENCY is a setting"),
        ({"TIERS": "a,a_fleet"}, "named a_fleet: FALLTHROUGH_A_FLEET_CONCURRENCY is a setting"),
        ({"L4_URL": "http://l4"}, "FALLTHROUGH_L4_URL: no such setting.*TIERS names no tier l4"),
        ({"TIERS": "l4", "L4_URLS": "http://l4"}, "did you mean FALLTHROUGH_L4_URL"),
        ({"TIERS": "l4", "L4_CONCURRENCY": "0"}, "L4_CONCURRENCY: 0 is out of range"),
        ({"TIERS": "l4", "GPU_URL": "http://g"}, "GPU_URL: FALLTHROUGH_TIERS does not name gpu"),
        (
            {"TIERS": "l4", "L4_URL": "http://a:b@l4", "L4_API_KEY": "key"},
            "FALLTHROUGH_L4_URL: it has a user or password, and FALLTHROUGH_L4_API_KEY is set",
        ),
        ({"TIERS": "h100,l4", "STRICT_FINISH": "gpu"}, "'gpu' is no 1, 0, h100 or l4"),
        ({"TIERS": "h100,l4", "BATCH_TIERS": "gpu"}, "'gpu' is not one of h100, l4, cache"),
    ],
)
def test_a_tier_that_cannot_be_is_named(environ, fault):
    with pytest.raises(SettingsError, match=fault):
        Settings.from_env({f"FALLTHROUGH_{name}": value for name, value in environ.items()})


def test_no_tier_is_named_as_a_phase_is():
    assert {*NO_TIERS} == {CACHE, "degraded", *PHASES}
    assert {*SEED_TIERS} < {*BREAKER_NAMES}


ORIGIN = "is no origin: a scheme, a host and a port alone"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", ""),
        ("*", ""),
        (" https://a.example , HTTP://localhost:3000,http://[::1]:8080", ""),
        ("tauri://localhost,chrome-extension://abcdef", ""),
        ("https://xn--bcher-kva.example", ""),
        ("*,https://a.example", "stands alone"),
        ("https://a.example/", ORIGIN),
        ("https://a.example/path", ORIGIN),
        ("https://a.example?x", ORIGIN),
        ("https://user:hunter2@a.example", ORIGIN),
        ("https://*.a.example", ORIGIN),
        ("https://b\u00fccher.example", ORIGIN),
        ("https://", ORIGIN),
        ("a.example", ORIGIN),
        ("//a.example", ORIGIN),
        ("null", ORIGIN),
        ("https://[a.example]", ORIGIN),
        ("http://::1", ORIGIN),
        ("https://a.example:0", ORIGIN),
        ("https://a.example:70000", "ports go from 1 to 65535"),
        ("https://a.example:443", "browsers leave out the port"),
        ("http://a.example:80", "browsers leave out the port"),
        ("https://a.example https://b.example", ORIGIN),
    ],
)
def test_an_origin_is_what_a_browser_sends(text, fault):
    environ = {"FALLTHROUGH_CORS_ORIGINS": text}
    if not fault:
        assert Settings.from_env(environ).cors_origins == text.strip()
        return
    with pytest.raises(SettingsError, match="FALLTHROUGH_CORS_ORIGINS: ") as error:
        Settings.from_env(environ)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)
    assert "hunter2" not in str(error.value)
