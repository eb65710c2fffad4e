"""`fallthrough batch` before an API that is a stub: what it does when the API is not well."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import signal
import subprocess
import tempfile
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import Mock

import httpx
import pytest
from click.testing import CliRunner
from harness.commands import FALLTHROUGH, environ, run
from harness.stub_api import HANG_UP, StubApi
from harness.waiting import wait_until
from rich.console import Console

from cli import batches, input_file, patience
from cli.batches import pace_of
from cli.client import ApiAwayError, Client
from cli.input_file import input_files
from cli.main import main as fallthrough
from cli.prompts import InputError, Shape

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHAT = "/v1/chat/completions"
COUNTS = ("total", "completed", "failed")
BODY = {"messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def api():
    stub = StubApi()
    stub.answers["/v1/files/file-out/content"] = (200, b'{"custom_id":"a"}\n')
    yield stub
    stub.vanish()


def shown(status: str, completed: int = 0, **fields: Any) -> tuple[int, dict[str, Any]]:
    counts = {"total": 2, "completed": completed, "failed": 0}
    known = {"id": "b1", "status": status, "request_counts": counts}
    return 200, {**known, "output_file_id": None, "error_file_id": None, **fields}


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (None, ""),
        (0.0, "0.0 lines/s"),
        (0.25, "0.2 lines/s, 0:06:00 left"),
        (1234.5, "1,234.5 lines/s, 0:00:00 left"),
    ],
)
def test_the_pace_is_the_servers_and_says_what_is_left(rate, said):
    counts = {"total": 100, "completed": 9, "failed": 1}
    assert pace_of({"request_counts": counts, "fallthrough": {"lines_per_second": rate}}) == said


@pytest.mark.parametrize("width", [40, 80, 200])
def test_all_that_is_said_of_a_batch_is_seen_in_a_terminal_of_any_width(width):
    tiers = {"gpu": 11_000, "cpu": 900, "[cache]": 100}
    display = batches._Display()
    display.show(
        shown(
            "in_progress",
            request_counts={"total": 40_000, "completed": 12_000, "failed": 12},
            fallthrough={"tiers": tiers, "lines_per_second": 123.4},
        )[1]
    )
    terminal = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    terminal.print(display.progress.get_renderable())
    words = " ".join(terminal.file.getvalue().replace("━", "").replace("╸", "").split())
    assert words == " ".join(display.line().split())
    for each in ("12012 of 40000 lines", "123.4 lines/s, 0:03:47 left", "[cache] 100", "failed 12"):
        assert each in words


def test_a_terminal_that_shows_no_bar_is_told_in_lines(monkeypatch, capsys):
    """As an editor's is: TERM=dumb."""
    monkeypatch.setattr(batches, "TOLD_EVERY_SECONDS", 0.0)
    display = batches._Display()
    told = []
    for name in ("xterm", "dumb"):
        environment = {"TERM": name}
        display.progress.live.console = Console(force_terminal=True, _environ=environment)
        display.show(shown("in_progress", 1)[1])
        told.append(capsys.readouterr().err)
    assert [("in_progress, 1 of 2 lines" in each) for each in told] == [False, True]


def test_of_a_group_are_the_parts_of_a_file_and_no_batches_of_a_users_own_group():
    own = [{"group": "group_1"}, {"group": "group_1", "part": "first"}, {"part": "1/2"}, None]
    listed = [{"id": f"own_{n}", "metadata": metadata} for n, metadata in enumerate(own)] + [
        {"id": f"b{n}", "metadata": {"group": "group_1", "part": f"{n}/12"}} for n in (10, 2, 1)
    ]
    client = Mock(every_batch=lambda: iter(listed))
    assert batches.ids_of(client, ["b7", "group_1"]) == ["b7", "b1", "b2", "b10"]


def test_of_a_group_the_paces_are_added():
    running = [part("b1", 0, "in_progress"), part("b2", 0, "in_progress"), part("b3", 2)]
    for batch, rate in zip(running, (1.5, 2.0, None), strict=True):
        batch["fallthrough"] = {"lines_per_second": rate}
    assert batches.merged(running)["fallthrough"]["lines_per_second"] == 3.5
    assert batches.merged(running[2:] * 2)["fallthrough"]["lines_per_second"] is None


@pytest.fixture
def attached(api):
    """`fallthrough batch attach`, at a terminal of its own."""
    begun = []

    def attach(*options: str) -> tuple[subprocess.Popen[bytes], Callable[[], str]]:
        main, terminal = pty.openpty()
        command = [*FALLTHROUGH, "batch", "attach", "b1", "--url", api.url, *options]
        process = subprocess.Popen(
            command, env=environ(TERM="xterm"), stdout=subprocess.DEVNULL, stderr=terminal
        )
        os.close(terminal)
        told: list[bytes] = []

        def listen() -> None:
            try:
                while part := os.read(main, 65536):
                    told.append(part)
            except OSError:  # a terminal that nobody holds any more
                pass

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        begun.append((process, main, thread))

        def said() -> str:
            if process.poll() is not None:
                thread.join(10)
            return b"".join(told).decode()

        return process, said

    yield attach
    for process, main, thread in begun:
        process.kill()
        process.wait()
        thread.join(10)
        os.close(main)


def test_it_follows_on_over_a_restart_of_the_api_and_tells_it_once(api, attached, tmp_path):
    api.answers["/v1/batches/b1"] = shown("in_progress", 1)
    output = tmp_path / "r.jsonl"
    process, said = attached("--output", str(output))
    wait_until(lambda: api.asked)
    api.vanish()
    wait_until(lambda: "trying again" in said())
    api.answers["/v1/batches/b1"] = (503, {"error": {"message": "not yet"}})
    before = len(api.asked)
    api.listen()
    wait_until(lambda: len(api.asked) > before)
    api.answers["/v1/batches/b1"] = shown("completed", 2, output_file_id="file-out")
    assert process.wait(20) == 0, said()
    assert said().count("trying again") == 1
    assert output.read_text() == '{"custom_id":"a"}\n'


def test_a_batch_that_takes_long_is_looked_at_as_often_as_the_api_says(monkeypatch):
    """Each look is a request of the key's owner: two a second left others of his none."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    clock, asked = [0.0], []

    def look(*_):
        asked.append(clock[0])
        return shown("completed" if clock[0] > 60 else "in_progress")[1]

    def sleep(seconds):
        clock[0] += seconds

    monkeypatch.setattr(Client, "batch", look)
    monkeypatch.setattr(batches.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(batches.time, "sleep", sleep)
    batches.follow(Client("http://127.0.0.1:1"), ["b1"], lambda: None)
    assert asked[1] == 0.5
    assert sum(10 < at <= 60 for at in asked) == 25


def test_an_api_that_stays_away_is_left_with_the_way_to_come_back(api, monkeypatch, capsys):
    monkeypatch.setattr(patience, "AWAY_SECONDS", 0.2)
    monkeypatch.setattr(patience, "AGAIN_SECONDS", 0.02)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    api.vanish()
    back: list[bool] = []
    with Client(api.url) as client, pytest.raises(ApiAwayError):
        batches.follow(client, ["b1"], lambda: back.append(True))
    assert back == [True]


CONTENT = "/v1/files/file-out/content"
BUSY = (429, {"error": {"message": "this key may send 8 requests at once"}})


@pytest.mark.parametrize("refusal", [BUSY, (503, {"error": {"message": "not now"}}), None])
def test_a_download_that_is_turned_away_is_asked_for_again(api, refusal, tmp_path):
    api.answers["/v1/batches/b1"] = shown("completed", 2, output_file_id="file-out")
    answer, api.answers[CONTENT] = api.answers[CONTENT], refusal or (200, HANG_UP)
    output = tmp_path / "r.jsonl"
    command = [*FALLTHROUGH, "batch", "attach", "b1", "--output", str(output), "--url", api.url]
    process = subprocess.Popen(command, env=environ(), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: api.asked.count(CONTENT) > 1)
    api.answers[CONTENT] = answer
    said = process.communicate(timeout=20)[1]
    assert (process.returncode, output.read_text()) == (0, '{"custom_id":"a"}\n'), said


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        (BUSY, "this key may send 8 requests at once"),
        ((404, {"error": {"message": "no file 'file-out'"}}), "no file 'file-out'"),
    ],
)
def test_a_download_that_is_refused_says_why_and_the_way_to_come_back(
    api, refusal, why, tmp_path, monkeypatch
):
    monkeypatch.setattr(patience, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr(patience, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    api.answers["/v1/batches/b1"] = shown("completed", 2, output_file_id="file-out")
    api.answers[CONTENT] = refusal
    words = ["batch", "attach", "b1", "--output", str(tmp_path / "r.jsonl"), "--url", api.url]
    done = CliRunner().invoke(fallthrough, words)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-2:] == [
        f"it has ended; get its results with: fallthrough {' '.join(words)}",
        f"fallthrough: {why}",
    ]


def test_a_download_that_is_interrupted_leaves_nothing_half_done(api, tmp_path, monkeypatch):
    api.answers["/v1/batches/b1"] = shown("completed", 2, output_file_id="file-out")
    answers, is_over = api.answers, threading.Event()

    def answer(path):
        if path == CONTENT:
            is_over.wait(20)
        return answers[path]

    monkeypatch.setattr(api, "answer", answer)
    output = tmp_path / "r.jsonl"
    words = ["batch", "attach", "b1", "--output", str(output), "--url", api.url]
    process = subprocess.Popen(
        [*FALLTHROUGH, *words], env=environ(), stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: CONTENT in api.asked)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1].splitlines()
    is_over.set()
    assert (process.returncode, list(tmp_path.iterdir())) == (130, [])
    assert said[-2:] == [
        f"it has ended; get its results with: fallthrough {' '.join(words)}",
        "fallthrough: interrupted",
    ]


def test_what_the_api_refuses_ends_it_at_once(api):
    api.answers["/v1/batches/b1"] = (404, {"error": {"message": "no batch 'b1'"}})
    done = run("batch", "attach", "b1", "--url", api.url)
    assert (done.returncode, api.asked) == (2, ["/v1/batches/b1"])
    assert "no batch 'b1'" in done.stderr


def test_interrupted_it_gives_the_terminal_its_cursor_back(api, attached):
    api.answers["/v1/batches/b1"] = shown("in_progress", 1)
    process, said = attached()
    wait_until(lambda: "\x1b[?25l" in said())
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130, said()
    assert said().rfind("\x1b[?25h") > said().rfind("\x1b[?25l")
    assert "fallthrough batch attach b1" in said()


def test_a_batch_that_failed_validation_tells_why_and_leaves_the_output_alone(api, tmp_path):
    errors = {"data": [{"code": "empty_file", "line": None, "message": "the file is empty"}]}
    api.answers["/v1/batches/b1"] = shown("failed", errors=errors)
    api.answers["/v1/batches/b1/errors?limit=10"] = (200, errors)
    output = tmp_path / "r.jsonl"
    output.write_text("precious\n")
    done = run("batch", "attach", "b1", "--output", str(output), "--url", api.url)
    assert done.returncode == 1
    assert "the file is empty (empty_file)" in done.stderr
    assert "results in" not in done.stderr
    assert output.read_text() == "precious\n"


def as_input(tmp_path: Path, content: str) -> tuple[list[dict[str, Any]], str]:
    source = tmp_path / "p.jsonl"
    source.write_text(content, encoding="utf-8")
    folder = tmp_path / "made"
    folder.mkdir()
    [(ready, endpoint, _)] = input_files(str(source), folder, Shape())
    text = ready.read_text(encoding="utf-8-sig")
    return [json.loads(each) for each in text.split("\n") if each.strip()], endpoint


@pytest.mark.parametrize("before", ["", "\n", " \r\n\n", "\ufeff"])
def test_the_first_line_that_is_not_blank_decides_the_endpoint(tmp_path, before):
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
    assert as_input(tmp_path, before + json.dumps(line)) == ([line], "/v1/completions")


@pytest.mark.parametrize("url", [7, "/v1/responses", None])
def test_a_wrong_url_names_its_line(tmp_path, url):
    line = {"custom_id": "a", "method": "POST", "url": url, "body": BODY}
    with pytest.raises(InputError, match="line 3: url must be one of /v1/chat/completions, "):
        as_input(tmp_path, "\n\n" + json.dumps(line))


def test_prompts_with_a_byte_order_mark_become_a_batch(tmp_path):
    [line], endpoint = as_input(tmp_path, '\ufeff{"prompt": "x"}\n')
    assert (line["body"], endpoint) == (BODY, CHAT)


def test_its_summary_says_which_model_answered_how_many_lines(api):
    models = {"cpu": {"small": 1}, "gpu": {"large": 40, "old": 2}, "cache": {"large": 3}}
    told = {"tiers": {"gpu": 42, "cpu": 1, "cache": 3}, "models": models}
    api.answers["/v1/batches/b1"] = shown("completed", 2, fallthrough=told)
    done = run("batch", "attach", "b1", "--url", api.url)
    said = "answered: 40 by gpu large, 3 by cache large, 2 by gpu old, 1 by cpu small"
    assert said in done.stderr.splitlines()


def ended_part(name, completed, status="completed", failed=0, **fields):
    """A batch of two lines that has ended."""
    output = f"out-{name}" if completed else None
    error = f"err-{name}" if failed else None
    counts = {"total": 2, "completed": completed, "failed": failed}
    known = {"id": name, "status": status, "request_counts": counts, "output_file_id": output}
    return {**known, "error_file_id": error, **fields}


def part(name, completed, status="completed", degraded=0):
    counts = {"total": 2, "completed": completed, "failed": 2 - completed}
    told = {"tiers": {"degraded": degraded}} if degraded else {}
    return {"id": name, "status": status, "request_counts": counts, "fallthrough": told}


@pytest.mark.parametrize(
    ("parts", "asked"),
    [
        ([part("b1", 2), part("b2", 1)], ["b2"]),
        ([part("b1", 2), part("b2", 2, degraded=1)], ["b2"]),
        ([part("b1", 1), part("b2", 0, "in_progress")], ["b2", "b1"]),
        ([part("b1", 1), ended_part("b2", 0, "failed")], ["b2", "b1"]),
        ([part("b1", 2), part("b2", 2)], ["b1"]),
    ],
)
def test_of_a_group_the_batches_with_lines_to_ask_again_are_retried(monkeypatch, parts, asked):
    retried = []

    def retry(_, batch_id, key):
        retried.append(batch_id)
        return {"id": f"again_{batch_id}"}

    by_id = {each["id"]: each for each in parts}
    monkeypatch.setattr(Client, "batch", lambda _, batch_id: by_id[batch_id])
    monkeypatch.setattr(Client, "retry_batch", retry)
    done = CliRunner().invoke(fallthrough, ["batch", "retry", *by_id, "--detach"])
    assert (done.exit_code, retried) == (0, asked), done.output
    assert done.stdout.split() == [f"again_{name}" for name in asked]


def failed_lines(number):
    return {"data": [{"line": n, "code": "boom", "message": f"no {n}"} for n in range(1, number)]}


@pytest.mark.parametrize("command", [["status", "b1"], ["attach", "b1", "--output", "r.jsonl"]])
def test_the_first_lines_without_an_answer_are_told_and_how_many_there_are(
    api, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    counts = {"total": 20, "completed": 8, "failed": 12}
    api.answers["/v1/batches/b1"] = shown("completed", request_counts=counts, created_at=0)
    api.answers["/v1/batches/b1/errors?limit=10"] = (200, failed_lines(11))
    done = run("batch", *command, "--url", api.url)
    lines = done.stderr.splitlines()
    assert [line for line in lines if "boom" in line] == [
        f"line {n} of the batch's file: no {n} (boom)" for n in range(1, 11)
    ]
    more = f"fallthrough batch results b1 --url {api.url}"
    assert f"… and 2 more without an answer: {more}" in lines


@pytest.mark.parametrize(
    ("lines", "options", "told"),
    [
        (2, ["--output", "r.jsonl"], "; they are in r.jsonl"),
        (2, [], ""),
        (1, ["--output", "r.jsonl"], "; 1 of them are in r.jsonl, the others come"),
        (0, [], "; 0 of them are here, the others come with the rest of their slices"),
    ],
)
def test_it_is_said_how_many_of_the_finished_lines_there_are(
    monkeypatch, tmp_path, lines, options, told
):
    """A line counts when it is answered, and can be read when its slice is written."""
    monkeypatch.chdir(tmp_path)
    counts = {"total": 9, "completed": 2, "failed": 0}
    monkeypatch.setattr(Client, "batch", lambda *_: shown("in_progress", request_counts=counts)[1])
    monkeypatch.setattr(Client, "results", lambda *_: iter([{"custom_id": "a"}] * lines))
    done = CliRunner().invoke(fallthrough, ["batch", "results", "b1", *options])
    assert done.stderr.startswith(f"in_progress: 2 of 9 are finished{told}")
    assert told or done.stderr.endswith("finished\n")


def test_of_more_faults_in_a_file_than_are_told_it_is_said_what_tells_them(api):
    """No line was asked, so `batch results` would have none."""
    faults = [{"line": n, "code": "odd", "message": f"no {n}"} for n in range(1, 13)]
    counts = {"total": 20, "completed": 0, "failed": 0}
    ended = {"errors": {"data": faults}, "request_counts": counts, "created_at": 0}
    api.answers["/v1/batches/b1"] = shown("failed", **ended)
    api.answers["/v1/batches/b1/errors?limit=10"] = (200, {"data": faults[:10]})
    done = run("batch", "status", "b1", "--url", api.url)
    *_, more = done.stderr.splitlines()
    assert more == f"… and 2 more: fallthrough batch status b1 --json --url {api.url}"
    told = run(*more.partition("fallthrough ")[2].split())
    assert json.loads(told.stdout)["errors"]["data"] == faults


def test_results_are_kept_though_why_lines_failed_cannot_be_read(api, tmp_path):
    counts = {"total": 2, "completed": 1, "failed": 1}
    ended = shown("completed", request_counts=counts, output_file_id="file-out")
    api.answers["/v1/batches/b1"] = ended
    api.answers["/v1/batches/b1/errors?limit=10"] = (503, {"error": {"message": "not now"}})
    output = tmp_path / "r.jsonl"
    done = run("batch", "attach", "b1", "--output", str(output), "--url", api.url)
    assert (done.returncode, output.read_text()) == (1, '{"custom_id":"a"}\n')
    assert "1 without an answer; why could not be read: not now" in done.stderr


@pytest.mark.parametrize("name", [b"caf\xe9.jsonl", b"caf\xe9.txt"])
def test_a_file_whose_name_is_no_utf_8_is_sent(api, tmp_path, name):
    line = {"custom_id": "a", "url": CHAT, "body": BODY}
    (tmp_path / os.fsdecode(name)).write_text(json.dumps(line) + "\n")
    api.answers["/v1/files"] = (200, {"id": "file-in"})
    api.answers["/v1/batches"] = shown("validating")
    file = str(tmp_path / os.fsdecode(name))
    done = run("batch", file, "--detach", "--url", api.url)
    assert (done.returncode, done.stdout) == (0, "b1\n"), done.stderr
    assert 'filename="caf\ufffd' in api.requests[0].body.decode()


@pytest.mark.parametrize("is_full_from", ["its making", "its files"])
def test_a_full_temporary_folder_is_told_as_one(tmp_path, monkeypatch, is_full_from):
    """It was told as a full standard output, or by a traceback."""
    (tmp_path / "p.txt").write_text("x\n")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if is_full_from == "its making":
        monkeypatch.setattr(tempfile, "TemporaryDirectory", Mock(side_effect=full))
    else:
        monkeypatch.setattr(input_file, "_batch_line", Mock(side_effect=full))
    done = CliRunner().invoke(fallthrough, ["batch", str(tmp_path / "p.txt"), "--detach"])
    assert done.exit_code == 2
    assert done.stderr.startswith("fallthrough: the prompts cannot be written to a temporary file")
    assert "No space left on device; TMPDIR names another folder" in done.stderr


@pytest.mark.parametrize(
    ("words", "location"),
    [
        ("batch status b1", "https://api.example/ft/v1/batches/b1"),
        ("files download f1", "https://api.example/ft/v1/files/f1/content"),
        ("status job_1", "https://api.example/ft/v1/jobs/job_1?wait=0"),
    ],
)
def test_a_server_that_leads_elsewhere_is_told_and_where_to(monkeypatch, words, location):
    """As a proxy does to TLS. What it says with that is no result."""
    moved = httpx.Response(308, headers={"location": location}, text="<h1>Moved</h1>")
    transport = httpx.MockTransport(lambda _: moved)
    monkeypatch.setattr(httpx, "Client", partial(httpx.Client, transport=transport))
    command = [*words.split(), "--url", "http://api.example/ft"]
    done = CliRunner().invoke(fallthrough, command)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "leads elsewhere: name the API with --url https://api.example/ft or" in done.stderr


class Sent(NamedTuple):
    """A file, options, a line of what the server gets, and where that is said to stand."""

    name: str
    content: str
    line: int | None
    where: str
    options: tuple[str, ...] = ()


SENT = [
    Sent("mm.jsonl", '\n\n{"prompt":"a"}\n\n{"prompt":"b"}\n', 2, "mm.jsonl, line 5: "),
    Sent("c.csv", 'prompt\n"a\nb"\nc\n', 2, "c.csv, line 4: "),
    Sent("j.json", '["a", "b"]', 2, "j.json, item 2: "),
    Sent("t.txt", "\na\n\n\nb\n", 2, "t.txt, line 5: ", ("--max-tokens", "5")),
    Sent("as-is.jsonl", json.dumps({"custom_id": "a", "body": BODY}), 7, "as-is.jsonl, line 7: "),
    Sent("t.txt", "a\n", None, ""),
]


@pytest.mark.parametrize("file", SENT, ids=lambda file: file.where)
def test_a_fault_is_told_where_it_stands_in_the_users_file(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / file.name).write_text(file.content)
    fault = {"line": file.line, "code": "odd", "message": "this line is odd"}
    batch = shown("failed", errors={"data": [fault]})[1]
    done = sent(monkeypatch, [batch], {"b1": [fault]}, file.name, *file.options)
    assert f"{file.where}this line is odd (odd)" in done.stderr.splitlines()


def sent(monkeypatch, ended, faults, *words):
    """`fallthrough batch` of a file that becomes batches which end so. faults: by batch."""
    ids = iter(batch["id"] for batch in ended)
    by_id = {batch["id"]: batch for batch in ended}
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(Client, "upload", lambda *_: {"id": "file-in"})
    monkeypatch.setattr(Client, "create_batch", lambda *_, **__: {"id": next(ids)})
    monkeypatch.setattr(Client, "batch", lambda _, batch_id: by_id[batch_id])
    monkeypatch.setattr(Client, "errors", lambda _, batch_id, __: faults.get(batch_id, []))
    monkeypatch.setattr(Client, "download", lambda _, __, target: target.write(b"{}\n"))
    return CliRunner().invoke(fallthrough, ["batch", *words])


def test_a_fault_in_the_second_part_of_a_file_is_told_where_it_stands(tmp_path, monkeypatch):
    monkeypatch.setattr(input_file, "MOST_LINES", 2)
    (tmp_path / "p.txt").write_text("a\nb\nc\nd\n")
    fault = {"line": 2, "code": "odd", "message": "this line is odd"}
    parts = [ended_part("b1", 2), ended_part("b2", 0, "failed", errors={"data": [fault]})]
    done = sent(monkeypatch, parts, {"b2": [fault]}, str(tmp_path / "p.txt"))
    assert f"{tmp_path / 'p.txt'}, line 4: this line is odd (odd)" in done.stderr.splitlines()


def test_of_several_batches_each_fault_is_told_with_its_batch(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    fault = {"line": 2, "code": "odd", "message": "this line is odd"}
    parts = [ended_part("b1", 2), ended_part("b2", 0, "failed", errors={"data": [fault]})]
    done = sent(monkeypatch, parts, {"b2": [fault]}, "attach", "b1", "b2")
    assert "line 2 of b2's file: this line is odd (odd)" in done.stderr.splitlines()


NONE_ASKED = "no prompt was asked: mend what is said above, and send the file again"
PART_2 = {"metadata": {"group": "group_1", "part": "2/2"}}


NOT_ASKED = "none of its prompts was asked: mend what is said above, and send them again"
NOT_JOINED = "its results were not put together; what was written of them"
IN_R = "the results of the others are in r.jsonl"


def unanswered(of):
    words = "prompts were not answered by a model or a cache"
    return f"{of} {words} (0 degraded, {of.split()[0]} without an answer)"


def again(name):
    return f"; ask those again: fallthrough batch retry {name}"


class Ending(NamedTuple):
    """How batches end, and the last lines that are said of it."""

    parts: list[dict[str, Any]]
    said: list[str]


ENDINGS = {
    "its validation failed": Ending([ended_part("b1", 0, "failed")], [NONE_ASKED]),
    "each part's validation failed": Ending(
        [ended_part("b1", 0, "failed"), ended_part("b2", 0, "failed")], [NONE_ASKED]
    ),
    "one part's validation failed": Ending(
        [ended_part("b1", 2), ended_part("b2", 0, "failed", **PART_2)],
        [
            "b1 b2 failed: 2 answered, 0 failed, of 4; results in r.jsonl",
            f"b2 (part 2/2) failed: {NOT_ASKED}; {IN_R}",
            unanswered("2 of 4"),
        ],
    ),
    "one part's validation failed, and lines of another": Ending(
        [ended_part("b1", 1, failed=1), ended_part("b2", 0, "failed")],
        [f"b2 failed: {NOT_ASKED}; {IN_R}", unanswered("3 of 4") + again("b1")],
    ),
    "a slice was given up": Ending(
        [ended_part("b1", 1, "failed", failed=1)], [unanswered("1 of 2") + again("b1")]
    ),
    "the joining was given up": Ending(
        [ended_part("b1", 2, "failed", output_file_id=None)],
        [
            "b1 failed: 2 answered, 0 failed, of 2",
            f"b1 failed: {NOT_JOINED}: fallthrough batch results b1",
        ],
    ),
    "one part was cancelled while it was validated": Ending(
        [
            ended_part("b1", 2),
            ended_part("b2", 0, "cancelled", request_counts=dict.fromkeys(COUNTS, 0)),
        ],
        [f"b2 cancelled: {NOT_ASKED}; {IN_R}"],
    ),
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_who_has_answers_is_not_told_that_no_prompt_was_asked(monkeypatch, tmp_path, ending):
    monkeypatch.chdir(tmp_path)
    ids = [part["id"] for part in ending.parts]
    done = sent(monkeypatch, ending.parts, {}, "attach", *ids, "--output", "r.jsonl")
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert lines[-len(ending.said) :] == ending.said
    assert (NONE_ASKED in lines) is (ending.said == [NONE_ASKED])
