"""Where results go: a pipe, a redirection, a terminal, a file that is there already."""

from __future__ import annotations

import errno
import os
import pty
import shlex
import subprocess
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from harness.commands import FALLTHROUGH, environ
from harness.stub_api import StubApi
from harness.terminals import terminal

from cli.commands.batches import _beside
from cli.commands.options import check_writable
from cli.main import main
from cli.output import OutputError, writing
from cli.prompts import InputError

BATCH = {
    "id": "b1",
    "status": "completed",
    "request_counts": {"total": 1, "completed": 1, "failed": 0},
    "output_file_id": "f1",
    "error_file_id": None,
}
RESULT = '{"custom_id": "a"}\n'
PAGE = {"data": [{"custom_id": "a"}], "next": "0.0"}


@pytest.fixture(scope="module")
def api():
    stub = StubApi()
    stub.answers["/v1/files/f1/content"] = (200, RESULT.encode())
    stub.answers["/v1/batches/b1"] = (200, BATCH)
    stub.answers["/v1/batches/b1/results?limit=1000&after=0.0"] = (200, PAGE)
    yield stub
    stub.vanish()


def in_a_shell(line, folder, api, words):
    command = shlex.join([*FALLTHROUGH, *words.split(), "--url", api.url])
    return subprocess.run(
        ["/bin/bash", "-c", line.replace("COMMAND", command)],
        cwd=folder,
        env=environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


PRINTS = (
    "batch results b1",
    "files download f1",
    "batch attach b1 --output /dev/stdout",
    "batch attach b1 --output -",
    "batch results b1 --output /dev/fd/1",
)


class Redirection(NamedTuple):
    """line: a shell's. printed: what comes out of it. kept: the content of the file `all`."""

    line: str
    printed: str
    kept: str | None = None


REDIRECTIONS = [
    Redirection("COMMAND | cat", RESULT),
    Redirection("echo before > all; COMMAND >> all", "", f"before\n{RESULT}"),
    Redirection("{ echo head; COMMAND; echo end; } > all", "", f"head\n{RESULT}end\n"),
    Redirection("touch other; ln other all; COMMAND > all; cat other", RESULT, RESULT),
]


@pytest.mark.parametrize("words", PRINTS)
@pytest.mark.parametrize("redirection", REDIRECTIONS, ids=lambda each: each.line)
def test_what_is_printed_goes_where_standard_output_does(tmp_path, api, words, redirection):
    done = in_a_shell(redirection.line, tmp_path, api, words)
    assert (done.returncode, done.stdout) == (0, redirection.printed), done.stderr
    if redirection.kept:
        assert (tmp_path / "all").read_text() == redirection.kept


def test_a_link_to_standard_output_is_as_good(tmp_path, api):
    (tmp_path / "link").symlink_to("/dev/stdout")
    line = "echo before > all; COMMAND --output link >> all"
    done = in_a_shell(line, tmp_path, api, "batch results b1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "all").read_text() == f"before\n{RESULT}"


def test_a_shells_pipe_takes_results(tmp_path, api):
    done = in_a_shell("COMMAND --output >(cat > all); wait $!", tmp_path, api, "batch results b1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "all").read_text() == RESULT


def test_whoever_has_read_enough_is_told_nothing(tmp_path, api):
    api.answers["/v1/files/long/content"] = (200, b"x\n" * 1_000_000)
    done = in_a_shell("COMMAND | head -1", tmp_path, api, "files download long")
    assert (done.stdout, done.stderr) == ("x\n", "")


def test_a_full_standard_output_is_told_with_the_way_to_the_results(tmp_path, api):
    done = in_a_shell("COMMAND > /dev/full", tmp_path, api, "files download f1")
    again = f"get it with: fallthrough files download f1 --url {api.url}"
    why = "cannot write the results to standard output: No space left on device"
    assert (done.returncode, done.stderr) == (2, f"fallthrough: {why}; {again}\n")


EVIL = "one\r\nä\x9b31m\x1b]0;owned\x07\r".encode() + b"\xff\n"
SEEN = ["one", "ä\\x9b31m\\x1b]0;owned\\x07\\x0d\ufffd"]


@pytest.mark.parametrize("options", [[], ["--output", "/dev/stdout"]])
def test_what_is_printed_does_not_steer_a_terminal(api, options):
    api.answers["/v1/files/evil/content"] = (200, EVIL)
    with terminal("files", "download", "evil", *options, "--url", api.url) as shown:
        assert shown.process.wait(20) == 0, shown.said
        assert shown.lines[:2] == SEEN


def test_a_terminal_that_is_named_is_not_steered_however_the_bytes_come():
    reader, tty = pty.openpty()
    with writing(Path(os.ttyname(tty)), "again") as target:
        for number in range(len(EVIL)):
            target.write(EVIL[number : number + 1])
            target.flush()
    os.close(tty)
    assert os.read(reader, 4096).decode().split("\r\n") == [*SEEN, ""]
    os.close(reader)


@pytest.fixture
def output(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text("precious\n")
    return path


def write(output):
    check_writable(output)
    write_unchecked(output)


def write_unchecked(output):
    with writing(output, "again") as target:
        target.write(b"new\n")


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o640])
def test_a_file_that_is_replaced_keeps_its_mode(output, mode):
    output.chmod(mode)
    write(output)
    assert (output.read_text(), output.stat().st_mode & 0o7777) == ("new\n", mode)
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_file_that_is_replaced_keeps_its_owner(output):
    os.chown(output, 65534, 65534)
    write(output)
    assert (output.stat().st_uid, output.stat().st_gid) == (65534, 65534)


@pytest.mark.parametrize("why", [errno.EBUSY, errno.EPERM, errno.EACCES])
def test_a_file_that_cannot_be_renamed_over_is_written(output, monkeypatch, why):
    def refuse(*_):
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(Path, "replace", refuse)
    write(output)
    assert output.read_text() == "new\n"
    assert list(output.parent.iterdir()) == [output]


def take_no_new_file(output):
    """Have the folder take none: its name is taken."""
    (output.parent / f".{output.name}.{os.getpid()}").mkdir()


def test_a_file_in_a_folder_that_takes_no_other_is_written(output):
    take_no_new_file(output)
    inode = output.stat().st_ino
    write(output)
    assert (output.read_text(), output.stat().st_ino) == ("new\n", inode)


def test_a_new_file_in_a_folder_that_takes_none_is_told_before(tmp_path):
    new = tmp_path / "new.jsonl"
    take_no_new_file(new)
    with pytest.raises(InputError, match="cannot write"):
        check_writable(new)
    with (
        pytest.raises(OutputError, match="; again"),
        writing(new, "again"),
    ):
        pass


def test_a_long_name_in_any_script_is_written(tmp_path):
    output = tmp_path / ("猫" * 80 + ".jsonl")
    write(output)
    assert output.read_text() == "new\n"


def test_who_reads_a_pipe_gets_the_results(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(10)
    assert got == [b"new\n"]
    assert pipe.is_fifo()


def test_an_open_file_that_takes_nothing_is_told_before(tmp_path):
    (tmp_path / "in.txt").write_text("x\n")
    with (tmp_path / "in.txt").open() as read_only:
        for number in (987654, read_only.fileno()):
            with pytest.raises(InputError, match="Bad file"):
                check_writable(Path(f"/dev/fd/{number}"))


@pytest.mark.parametrize("command", ["batch", "submit"])
@pytest.mark.parametrize("name", ["p.txt", "./p.txt", "soft.txt", "hard.txt"])
def test_the_prompts_are_never_replaced(tmp_path, monkeypatch, command, name):
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("my prompts\n")
    Path("soft.txt").symlink_to("p.txt")
    Path("hard.txt").hardlink_to("p.txt")
    words = [command, "p.txt", "--output", name, "--url", "http://127.0.0.1:1"]
    done = CliRunner().invoke(main, words)
    told = f"the results would replace the prompts in {Path(name)}: name another file"
    assert (done.exit_code, told in done.stderr) == (2, True), done.stderr
    assert Path("p.txt").read_text() == "my prompts\n"


@pytest.mark.parametrize("command", ["batch", "submit"])
def test_prompts_from_standard_input_are_never_replaced(tmp_path, command, api):
    (tmp_path / "p.txt").write_text("my prompts\n")
    done = in_a_shell("COMMAND < p.txt", tmp_path, api, f"{command} - --output p.txt")
    assert done.returncode == 2
    assert "the results would replace the prompts in p.txt" in done.stderr
    assert (tmp_path / "p.txt").read_text() == "my prompts\n"


def test_results_that_can_be_written_nowhere_are_told_before_a_batch_is_sent(
    tmp_path, monkeypatch, api
):
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("x\n")
    take_no_new_file(Path("p-results.jsonl").absolute())
    done = CliRunner().invoke(main, ["batch", "p.txt", "--url", api.url])
    assert (done.exit_code, "cannot write p-results.jsonl" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("letter", ["x", "é", "猫", "🐈"])
def test_however_long_the_name_of_the_prompts_results_have_one(tmp_path, monkeypatch, letter):
    monkeypatch.chdir(tmp_path)
    stem = letter * (250 // len(letter.encode()))
    Path(f"{stem}.txt").write_text("x\n")
    beside = _beside(f"{stem}.txt", "b1")
    check_writable(beside)
    assert beside.name.startswith(letter * 50)
