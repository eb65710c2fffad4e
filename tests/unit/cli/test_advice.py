"""A command that is advised goes to the same API, or data folder, as the one that was given."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

import cli
from cli import advice, patience, up
from cli.client import ApiAwayError, Client
from cli.commands import doctor
from cli.doctor import row_of_disk
from cli.main import main
from cli.stack.running import LOCK, Announcement, RunningPart

URL = "http://127.0.0.1:9000"
JOB = {
    "id": "job_1",
    "status": "succeeded",
    "text": "sorry",
    "degraded": True,
    "tier_used": "degraded",
}
FAILED = {**JOB, "status": "failed", "text": None, "degraded": False, "tier_used": "gpu"}
REFUSED: dict[str, Any] = {"job": lambda *_: FAILED}
WRITES = "nothing is written to r.jsonl; this writes it: fallthrough batch attach"
ASKED: dict[str, Any] = {
    "upload": lambda *_: {"id": "file_1"},
    "create_batch": lambda *_, **__: {"id": "b2"},
    "retry_batch": lambda *_: {"id": "b2"},
}
COUNTS = {"total": 20, "completed": 8, "failed": 12}
BATCH = {
    "id": "b1",
    "status": "completed",
    "request_counts": COUNTS,
    "created_at": 0,
    "output_file_id": "file_1",
    "error_file_id": None,
    "metadata": None,
}
CLOSED = {
    "state": "closed",
    "configured": True,
    "share": 1.0,
    "override": None,
    "hold_reason": None,
    "changed": None,
    "retry_after_seconds": 0.0,
}
BREAKERS = {
    "max_gpu": {**CLOSED, "state": "open"},
    "ollama_cpu": {**CLOSED, "override": "open"},
}
FLEET = {
    "workers": 1,
    "oldest_seconds": {},
    "parked": 0,
    "running": 0,
}
ANSWERS: dict[str, Any] = {
    "submit": lambda *_: [JOB],
    "job": lambda *_: JOB,
    "every_batch": lambda *_: iter(()),
    "batch": lambda *_: BATCH,
    "errors": lambda *_: [],
    "results": lambda *_: iter([{"custom_id": "a"}]),
    "download": lambda _, __, target: target.write(b"x"),
    "not_ready": lambda *_: [],
    "metrics": lambda *_: FLEET,
    "breakers": lambda *_: BREAKERS,
}


def away(*_):
    raise ApiAwayError("it is away")


class NoTiers(contextlib.nullcontext):
    """A check that has nothing to tell."""

    def __enter__(self):
        return self

    def rows(self):
        return []


class Case(NamedTuple):
    """words: a command; advised: what it advises; instead: answers of the API that differ."""

    words: str
    advised: str
    instead: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it


CASES = [
    Case("submit x --no-wait", "follow one with `fallthrough status ID{}`"),
    Case("submit x", "`fallthrough breakers{}` says why"),
    Case("submit x", "`fallthrough status job_1{}` says why", REFUSED),
    Case("submit x --output /dev/full", "look at each with `fallthrough status ID{}`: job_1"),
    Case("batch status group_7", "`fallthrough batch list{}` shows"),
    Case(
        "batch attach b1 --output r.jsonl",
        "come back with: fallthrough batch attach b1 --output r.jsonl{}\n",
        {"batch": away},
    ),
    Case(
        "batch attach b1 --output 'my results.jsonl'",
        "come back with: fallthrough batch attach b1 --output 'my results.jsonl'{}\n",
        {"batch": away},
    ),
    Case("batch attach b1 --output /dev/full", "again: fallthrough batch results b1{}\n"),
    Case("batch attach b1 --output r.jsonl", "ask those again: fallthrough batch retry b1{}\n"),
    Case("batch retry b1 --detach --output r.jsonl", f"{WRITES} b2 --output r.jsonl{{}}\n", ASKED),
    Case("batch run p.txt --detach --output r.jsonl", f"{WRITES} b2 --output r.jsonl{{}}\n", ASKED),
    Case("batch status b1", "more without an answer: fallthrough batch results b1{}\n"),
    Case("batch results b1 --output /dev/full", "with: fallthrough batch results b1{}\n"),
    Case("files download f1 --output /dev/full", "with: fallthrough files download f1{}\n"),
    Case("doctor", "fallthrough breakers reset max_gpu{}\n"),
    Case("doctor", "fallthrough breakers auto ollama_cpu{} ends that"),
]


@pytest.fixture(autouse=True)
def at_once(monkeypatch, tmp_path):
    """A folder of its own, an API that is a double, and no check of tiers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("x\n")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setattr(patience, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr(patience, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(doctor, "Check", NoTiers)
    for name, answer in ANSWERS.items():
        monkeypatch.setattr(Client, name, answer)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.words}: {case.advised}")
@pytest.mark.parametrize("given", [True, False], ids=["--url", "FALLTHROUGH_API_URL"])
def test_what_is_advised_asks_the_api_that_was_asked(case, given, monkeypatch):
    for name, answer in case.instead.items():
        monkeypatch.setattr(Client, name, answer)
    if not given:
        monkeypatch.setenv("FALLTHROUGH_API_URL", URL)
    options = f" --url {URL}" if given else ""
    done = CliRunner().invoke(main, shlex.split(case.words + options))
    assert case.advised.format(options) in done.output


@pytest.mark.parametrize("advised", sorted({case.advised for case in CASES}))
def test_what_is_advised_is_a_command(advised):
    words = shlex.split(re.search(r"fallthrough ([^`{]*)", advised)[1])
    done = CliRunner().invoke(main, [*words, "--url", URL, "--help"])
    assert (done.exit_code, "Usage:" in done.output) == (0, True), done.output


@pytest.fixture
def stack(tmp_path):
    """The data folder of a stack that runs, whose API is at URL."""
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        part = RunningPart("valkey", "redis://127.0.0.1:1", 1, "valkey.log")
        Announcement(tmp_path / "data").tell(URL, [part])
        yield tmp_path / "data"


def test_doctor_advises_commands_for_the_stack_that_it_found(stack):
    done = CliRunner().invoke(main, ["doctor", "--data-dir", str(stack)])
    assert f"fallthrough breakers reset max_gpu --url {URL}\n" in done.output


def test_doctor_names_no_api_that_every_command_finds(stack, monkeypatch):
    monkeypatch.setenv("FALLTHROUGH_API_URL", URL)
    done = CliRunner().invoke(main, ["doctor", "--data-dir", str(stack)])
    assert "fallthrough breakers reset max_gpu\n" in done.output


SAME = ("{}/", "{}/v1", "http://localhost:9000/v1/chat/completions", "HTTP://[::1]:9000")
OTHERS = ("http://127.0.0.1:9001", "http://gpu-box:9000", "https://127.0.0.1:9000", "{}/proxied")


@pytest.mark.parametrize("url", [URL, *SAME, *OTHERS])
def test_doctor_looks_at_the_stack_whose_api_is_named_however_it_is_written(
    url, stack, monkeypatch
):
    monkeypatch.setattr(doctor.environment, "data_folder", lambda: stack)
    monkeypatch.setenv("FALLTHROUGH_API_URL", url.format(URL))
    done = CliRunner().invoke(main, ["doctor", "--json"])
    parts = {row["part"] for row in json.loads(done.stdout)}
    assert {"valkey", "disk"} & parts == (set() if url in OTHERS else {"valkey", "disk"})
    assert "--url" not in done.stdout


def test_a_full_disk_is_told_with_the_files_of_its_api(tmp_path, monkeypatch):
    monkeypatch.setattr("cli.doctor.LEAST_FREE", 1 << 80)
    with Client(URL, options=("--url", URL)) as client:
        assert row_of_disk(tmp_path, client)["advice"].endswith(f"files list --url {URL}")


@pytest.mark.parametrize("command", ["doctor", "env"])
@pytest.mark.parametrize("given", [True, False])
def test_where_no_stack_runs_the_one_to_start_is_that_of_the_data_folder(command, given, tmp_path):
    options = ["--data-dir", str(tmp_path / "my data")] if given else []
    done = CliRunner().invoke(main, [command, *options])
    started = shlex.join(["fallthrough", "up", *options])
    assert f"{started}; or" in done.output or f"({started}), or" in done.output


def test_up_advises_the_doctor_of_its_data_folder(tmp_path):
    row = {"part": "gpu", "check": "reach", "state": "failed", "detail": "", "advice": ""}
    said: list[str] = []
    up._tell([row], tmp_path / "data", said.append)
    up._tell([row], tmp_path / "share" / "fallthrough", said.append)
    assert f"`fallthrough doctor --data-dir {tmp_path / 'data'}` asks again" in said[0]
    assert "`fallthrough doctor` asks again" in said[2]


@pytest.mark.parametrize(
    ("url", "start"),
    [
        ("http://127.0.0.1:8000", "start `fallthrough up`,"),
        ("http://localhost:8000/v1", "start `fallthrough up`,"),
        ("http://127.0.0.1:9000", "start `fallthrough up --port 9000`,"),
        ("http://127.0.0.1", "start `fallthrough up --port 80`,"),
        ("http://gpu-box:9000", "start it on gpu-box,"),
        ("https://127.0.0.1:9000", "start it on 127.0.0.1,"),
    ],
)
def test_where_nothing_listens_it_says_how_to_start_an_api_there(url, start):
    with Client(url) as client:
        assert start in str(client._away(ConnectionRefusedError("Connection refused")))
        assert start in str(client._away(ConnectionRefusedError("{odd}")))


def test_no_password_is_advised():
    address = "http://ann:hunter2@127.0.0.1:9000"
    done = CliRunner().invoke(main, ["submit", "x", "--no-wait", "--url", address])
    assert "fallthrough status ID --url 'http://***@127.0.0.1:9000'" in done.output
    assert "hunter2" not in done.output


# What names a command and is no advice to give it next, or one that asks no API.
NAMED = {
    "Where `fallthrough up` keeps its jobs  [default: ~/.local/share/fallthrough]",
    "(`fallthrough keys create NAME` makes one there)",  # on the server's machine
    "it needs an admin's key: `fallthrough keys create NAME --admin`",
    "`fallthrough up` on ",
    "no `fallthrough up` runs on ",
    "no `fallthrough up` ",
    "`fallthrough up` starts it again; why it ended: ",
    "start one: python -m workers (`fallthrough up` has its own: see its logs)",
}


def texts_of(source: Path) -> set[str]:
    """Return the texts of a module that name a command, without its docstrings."""
    tree = ast.parse(source.read_text())
    docstrings = {
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    commands = re.compile(rf"fallthrough ({'|'.join(main.commands)})\b")
    found = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    texts = {text for text in found if isinstance(text, str) and commands.search(text)}
    return texts - docstrings


def test_no_advice_is_written_but_by_one_function():
    assert advice.command("up", "--data-dir", "a b") == "fallthrough up --data-dir 'a b'"
    sources = Path(cli.__path__[0]).rglob("*.py")
    found = set().union(*map(texts_of, sources))
    # A long text is written in pieces.
    assert {text for text in found if not any(each in text for each in NAMED)} == set()
