"""Every argument and option by odd values: it works, or a line or click's usage says what is wrong.

The commands and what they take come from click's own tree. No API answers, and no part of a stack
is started: what comes before is what is looked at.
"""

from __future__ import annotations

import os
import signal

import click
import pytest
from click.testing import CliRunner

from cli.main import main
from cli.stack.supervisor import Supervisor

NOWHERE = "http://127.0.0.1:1"  # nobody listens
TEXTS = (
    *("", " ", "\n", "'", '"', "x", "a b", "a\nb", "\x1b[31mred", "é", "日本", "\udcff", "\u2028"),
    *(
        "x" * 10_240,
        "true",
        "None",
        "[]",
        "{}",
        "%s",
        "{0}",
        "\\",
        "*",
        "..",
        "=",
        "a=b",
        ",",
        "#x",
    ),
    *("--", "--help", "-h", "-", "-x", "--url", "../../etc/passwd", "[bold]x[/]", "[/]", ":smile:"),
)
NUMBERS = (
    *(
        "5",
        " 5 ",
        "0",
        "-1",
        "1_0",
        "1e3",
        "0x10",
        "1.5",
        "nan",
        "inf",
        "-inf",
        "٣",
        "²",
        "9" * 400,
    ),
    *("65535", "65536", "70000", "5 s", "90m", "2d"),
)
URLS = (
    *(
        "http://",
        "https://127.0.0.1:1",
        "HTTP://127.0.0.1:1",
        "http://h:99999",
        "http://[::1]:1",
    ),
    *(
        "ftp://h",
        "http://u:hunter2@127.0.0.1:1",
        "http://h?x=hunter2",
        "http://¡",
        "http://-ü",
        "h:80",
    ),
    *("javascript:alert(1)", "http://127.0.0.1:1/v1/", "http://127.0.0.1:1/a b", "unix:///x"),
)
FILES = {
    "empty.jsonl": b"",
    "blank.txt": b"\n \n\t\n",
    "binary.jsonl": bytes(range(256)),
    "binary.txt": bytes(range(256)),
    "no-utf-8.txt": "é".encode("latin-1"),
    "no-json.jsonl": b"{\n",
    "nan.jsonl": b"NaN\n",
    "deep.jsonl": b"[" * 100_000 + b"\n",
    "digits.jsonl": b'{"prompt": "x", "n": ' + b"9" * 10_000 + b"}\n",
    "array.jsonl": b"[1]\n",
    "null.jsonl": b"null\n",
    "both.jsonl": b'{"prompt": "x", "messages": []}\n',
    "body.jsonl": b'{"body": 5}\n',
    "url.jsonl": b'{"body": {}, "url": {"a": 1}}\n',
    "nul.jsonl": b'{"prompt": "a\\u0000b\\ud800"}\n',
    "huge-line.txt": b"x" * 2_000_000 + b"\n",
    "bom.txt": b"\xef\xbb\xbfHello\n",
    "name\nof lines.txt": b"x\n",
    "no.ending": b"x\n",
    "keys.json": b'{"keys": []}',
    "odd-keys.json": b'{"keys": [{"id": 5}]}',
}
PATHS = (
    *FILES,
    *("nowhere.jsonl", "nowhere.txt", "a folder", "a folder.jsonl", "unreadable.jsonl", "~", "~/x"),
    *(
        ".",
        "/dev/null",
        "/dev/full",
        "/dev/null/x",
        "/proc/self/mem",
        "/proc/x.jsonl",
        "x/y/z",
    ),
    *("x" * 300 + ".txt", "/" + "x/" * 3000, "\udcff.txt", "link-to-itself.txt"),
)
VALUES = tuple(dict.fromkeys((*TEXTS, *NUMBERS, *URLS, *PATHS)))
# What makes a command complete, where the odd value is another's.
GOOD = {
    "source": "Hello",
    "file": "good.txt",
    "batch_id": "batch_1",
    "job_id": "job_1",
    "key_id": "key-1",
    "owner": "ann",
    "name": "max_gpu",
}


def walk(group, *path):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from walk(command, *path, name)
        yield (*path, name), command


CASES = [
    pytest.param(path, parameter, id=f"{' '.join(path)} {parameter.name}")
    for path, command in walk(main)
    for parameter in command.params
    if not (isinstance(parameter, click.Option) and parameter.is_flag)
]


@pytest.fixture(autouse=True)
def _around(tmp_path, monkeypatch):
    """A folder with odd files, a home of its own, nothing else of this machine's."""
    # Values that lead up, and outside, are to find nothing that they could spoil.
    here = tmp_path / "in" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    for name in [name for name in os.environ if name.startswith("FALLTHROUGH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FALLTHROUGH_API_URL", NOWHERE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name, content in {**FILES, "good.txt": b"Hello\n"}.items():
        (here / name).write_bytes(content)
    (here / "a folder").mkdir()
    (here / "a folder.jsonl").mkdir()
    (here / "unreadable.jsonl").write_text("{}")
    (here / "unreadable.jsonl").chmod(0)
    (here / "link-to-itself.txt").symlink_to("link-to-itself.txt")

    def start_nothing(supervisor):
        supervisor.stop_requested = True

    monkeypatch.setattr(Supervisor, "start", start_nothing)
    monkeypatch.setattr("cli.check.COMMAND", ("/bin/echo", "[]"))  # no tier is asked
    monkeypatch.setattr("cli.patience.AWAY_SECONDS", 0.0)
    monkeypatch.setattr("cli.patience.AGAIN_SECONDS", 0.0)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before, mask = [signal.getsignal(number) for number in signals], os.umask(0o022)
    variables = dict(os.environ)
    yield
    os.environ.clear()  # `up --gpu-url` leaves what it was told to the parts that it starts
    os.environ.update(variables)
    os.umask(mask)
    for number, handler in zip(signals, before, strict=True):
        signal.signal(number, handler)


def arguments(path, parameter, value):
    """The words of a command: all that it needs, and the odd value."""
    command, words = main, []
    for name in path:
        command = command.commands[name]
        words.append(name)
        mine = [parameter] if parameter in command.params else []
        for each in command.params:
            given = value if each in mine else GOOD.get(each.name, "x")
            if isinstance(each, click.Option) and each in mine:
                words += [each.opts[-1], given]
            elif isinstance(each, click.Argument):
                words += [given]
    return words


def fault_of(words, stdin=""):
    """What is wrong with what a command says; "": nothing."""
    result = CliRunner().invoke(main, words, input=stdin)
    said, status = result.stderr.splitlines(), result.exit_code
    usage = any(line.startswith("Usage:") for line in said)  # click's, which shows what was typed
    if "… the batch goes on; trying again" in said:  # it said what it did meanwhile
        said = said[-1:]
    raised = result.exception and not isinstance(result.exception, SystemExit)
    faults = {
        f"raises {result.exception!r:.300}": raised,
        f"ends with {status}": status not in {0, 1, 2},
        f"shows a secret: {result.output:.300}": "--url" in words and "hunter2" in result.output,
        f"says it in {len(said)} lines: {said[:5]}": status == 2 and not usage and len(said) > 1,
        "says nothing": status and not said,
        f"says too much: {result.stderr:.300}": not usage
        and any(len(line) > 1000 for line in said),
    }
    return next((fault for fault, seen in faults.items() if seen), "")


@pytest.mark.parametrize(("path", "parameter"), CASES)
def test_an_odd_argument_works_or_is_told(path, parameter):
    faults = {}
    for value in VALUES:
        if fault := fault_of(arguments(path, parameter, value)):
            faults[value[:80]] = fault
    assert not faults, "\n".join(f"{value!r}: {fault}" for value, fault in faults.items())


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_odd_lines_of_standard_input_are_told(content):
    assert fault_of(["submit", "-", "--wait"], content) == ""


@pytest.mark.parametrize(
    "path", [path for path, _ in walk(main) if path != ("demo",)], ids=" ".join
)
def test_a_command_alone_a_word_too_many_and_an_option_that_is_none(path):
    for words in ((), ("--nothing",), ("x", "y", "z"), ("--json", "--json"), ("",)):
        assert fault_of([*path, *words]) == "", words
