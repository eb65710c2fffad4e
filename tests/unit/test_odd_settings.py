"""Every setting by odd values: it works for all that read it, or one line names the setting.

In one process: what each of ours does with its settings before it opens a connection. The same as
processes, for some values: tests/integration/test_settings_at_start.py.
"""

from __future__ import annotations

import json
import logging
from urllib.parse import urlsplit

import pytest
from yarl import URL

from cli.client import Client
from fallback_chain import HttptoolsHttp, normalise_url, split_urls
from tasks.app import create_app, register_tier
from tasks.errors import FallthroughError
from tasks.hosts import goes_direct
from tasks.keys import check_exposure, key_ring
from tasks.settings import Settings, specs_of
from tasks.storage import Storage
from tasks.store.connection import Connection
from tasks.telemetry import logs
from tasks.tiers.build import build_breakers, build_models

SECRET = "hunter2"  # noqa: S105 - made up
NUMBERS = (
    *(
        "5",
        " 5 ",
        "0",
        "-0",
        "+5",
        "-1",
        "007",
        "1_000",
        "1e3",
        "1E400",
        "0x10",
        "0b1",
        "1.5",
        "1,5",
    ),
    *(
        "nan",
        "NaN",
        "inf",
        "-inf",
        "infinity",
        "٣",
        "\uff15",
        "²",
        "½",
        "5 s",
        "5s",
        "1/2",
        "9" * 30,
    ),
    *(
        "1" + "0" * 5000,
        "1e-400",
        "4.9e-324",
        str(2**53),
        str(2**53 + 1),
        str(2**64),
        "--5",
        "5\n5",
    ),
)
TEXTS = (
    *("", " ", "\n", "\t", "'", '"', "''", "'x'", '"x"', "x", "a b", "a\nb", "a\x00b", "a\rb"),
    *("\x1b[31mred", "a\x85b", "\u2028", "\ufeffx", "é", "日本", "\udcff", "x" * 10_240),
    *(
        "true",
        "false",
        "yes",
        "None",
        "null",
        "[]",
        "{}",
        "${HOME}",
        "$(id)",
        "`id`",
        "%s",
        "%(x)s",
    ),
    *("{0}", "\\", "\\n", "#x", "a#b", "a;b", "a,b", ",", ",,", "*", "..", "a..b", "-x", "--help"),
    *("=", "a=b", f"a={SECRET}{SECRET}{SECRET}", "ann!=0123456789abcdef", "a=0123456789abcdef,b"),
)
PATHS = (
    *(
        "~",
        "~/x",
        "~no-such-user/x",
        ".",
        "./x",
        "../x",
        "/",
        "/dev/null",
        "/dev/null/x",
        "/proc/x",
        "x/../y",
    ),
    *("a folder", "a file", "a file/x", "an empty file", "binary", "keys.json", "nowhere.json"),
    *("C:\\x", "file://x", "file:///dev/null/x\n", "x" * 300, "/" + "x/" * 3000),
)
URLS = (
    *(
        "http://",
        "https://h",
        "HTTP://H",
        "http://h:99999",
        "http://h:x",
        "http://[::1]",
        "http://::1",
    ),
    *(
        "http://h/ ",
        "h:80",
        "http:h",
        "http:/h",
        "ftp://h",
        "javascript:alert(1)",
        "data:,x",
    ),
    *(
        f"http://u:{SECRET}@h",
        f"http://u:{SECRET}/@h",
        f"http://h?x={SECRET}",
        "http://h#x",
        "http://é",
    ),
    *(
        "redis://",
        "redis://h",
        "redis://h/x",
        "redis://h/1?db=2",
        f"redis://:{SECRET}#@h",
        "REDISS://h",
    ),
    *(
        "redis://h?ssl_cert_reqs=none",
        "redis+sentinel://h",
        "sentinel://h",
        "valkey://h",
        "redis:///0",
    ),
    *("unix://", "unix:///run/v.sock", f"unix://:{SECRET}@/run/v.sock?db=1", "unix:/run/v.sock"),
    *(
        "amqp://",
        "amqp://h//",
        f"AMQPS://u:{SECRET}@h/%2F",
        "amqp://a//;amqp://b//",
        "amqp://a//;redis://b",
    ),
    *(
        "memory://",
        "sqs://",
        "pyamqp://h",
        "s3://bucket/x",
        f"s3://id:{SECRET}@b",
        "gs://b",
        "nothing://b",
    ),
    *(
        "simplecache::s3://b",
        "::",
        "s3:",
        "memory://x/y",
        "github://o:r@/",
        "zip://x::file:///y",
        "ssh://h",
    ),
)
REGISTERED = set()  # tiers whose tasks an app knows: a millisecond each, whatever else is set
VALUES = tuple(dict.fromkeys((*NUMBERS, *TEXTS, *PATHS, *URLS)))


@pytest.fixture
def _around(tmp_path, monkeypatch):
    """A folder with odd files in it, and a home below it."""
    here = tmp_path / "in" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home" / "data"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    (here / "a folder").mkdir()
    (here / "a file").write_text("x")
    (here / "an empty file").write_text("")
    (here / "binary").write_bytes(bytes(range(256)))
    (here / "keys.json").write_text('{"keys": []}')

    def register_once(app, tier):
        if tier not in REGISTERED:
            REGISTERED.add(tier)
            register_tier(app, tier)

    monkeypatch.setattr("tasks.app.register_tier", register_once)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def begin(environ):
    """What API, worker, Celery, Flower and command line do with settings before they connect."""
    settings = Settings.from_env(environ)
    check_exposure(settings, key_ring(settings))
    create_app(settings)
    Storage(settings.files_url)
    connection = Connection(settings.redis_url, scripts={"none": None})
    breakers = build_breakers(settings, connection, lambda _: None)
    _, http = build_models(settings, connection, breakers)
    assert isinstance(http, HttptoolsHttp)
    for tier in settings.model_tiers.values():
        for url in split_urls(tier.url):
            http._target(normalise_url(url))
    if settings.proxy:
        URL(settings.proxy)
    direct = goes_direct(urlsplit(settings.api_url).hostname or "", settings.no_proxy)
    Client(settings.api_url, settings.api_key, "" if direct else settings.proxy).close()
    logs.configure(settings, "api")
    logging.getLogger("test").error("said with %s", settings)
    return settings


def fault_of(name, value):
    """What is wrong with what comes of a value; "": it works, or is refused as it should be."""
    secret = "://" in value and name.endswith(("_URL", "_KEY", "PROXY"))
    try:
        settings = begin({name: value})
    except FallthroughError as error:
        said = str(error)
        faults = {
            "without its name": name not in said,
            "in more than a line": not said.isprintable() or len(said) > 500,
            "its secret shown": "://" in value and SECRET in said,
        }
    except Exception as error:  # noqa: BLE001 - it is the point
        said, faults = repr(error), {"raised": True}
    else:
        said = json.dumps({row.variable: row.value for row in settings.rows()})
        faults = {
            "its secret shown": secret and SECRET in said,
            "a child reads another": Settings.from_env(settings.environ()) != settings,
        }
    return next((f"{fault}: {said[:300]}" for fault, seen in faults.items() if seen), "")


@pytest.mark.usefixtures("_around")
@pytest.mark.parametrize("spec", specs_of(Settings), ids=lambda spec: spec.name)
def test_an_odd_value_works_or_is_named_in_one_line(spec, capfd):
    name = f"FALLTHROUGH_{spec.name.upper()}"
    faults = {value[:80]: fault for value in VALUES if (fault := fault_of(name, value))}
    assert not faults, "\n".join(f"{value!r}: {fault}" for value, fault in faults.items())
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out
