"""Ctrl-C wherever a command waits: status 130, a line, and nothing goes on that nobody knows."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import termios
import threading

import pytest
from harness.commands import FALLTHROUGH, environ
from harness.stub_api import StubApi
from harness.waiting import wait_until

from cli import input_file
from cli.batches import create_batches
from cli.client import ApiFailedError
from cli.interrupt import INTERRUPTED, interrupt_held
from cli.prompts import Shape


class Api(StubApi):
    """Answers what it is not told with an id; and the path at which it hangs once it goes on."""

    def __init__(self):
        self.hangs_at, self.goes_on = "", threading.Event()
        super().__init__()

    def answer(self, path):
        if self.hangs_at and self.hangs_at in path:
            self.goes_on.wait(30)
        return self.answers.get(path, (200, {"id": f"it_{len(self.asked)}"}))


@pytest.fixture
def api():
    api = Api()
    yield api
    api.goes_on.set()
    api.vanish()


@pytest.fixture
def begun(api, tmp_path):
    """Begins a command in a folder that has a p.txt; ends it if the test does not."""
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    processes = []

    def begin(*words, stdin=subprocess.DEVNULL):
        process = subprocess.Popen(
            [*FALLTHROUGH, *words],
            env=environ(FALLTHROUGH_API_URL=api.url),
            cwd=tmp_path,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def interrupted(process):
    """What a command says of a Ctrl-C, of which it must make one line and the status of shells."""
    process.send_signal(signal.SIGINT)
    return last_words(process)


def last_words(process):
    out, said = process.communicate(timeout=20)
    assert (process.returncode, out, len(said.strip().splitlines())) == (INTERRUPTED, "", 1), said
    return said


def unread(pipe):
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


@pytest.mark.parametrize("command", ["batch", "submit"])
def test_while_standard_input_is_read(begun, command):
    reading, writing = os.pipe()
    process = begun(command, "-", stdin=reading)
    os.write(writing, b"one\n")
    wait_until(lambda: not unread(reading))
    assert interrupted(process) == "fallthrough: interrupted\n"
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("batch p.txt", "/v1/files"),
        ("status job_1 --wait 30", "/v1/jobs"),
        ("doctor --url {}", "/health/ready"),
        ("breakers", "/circuit-breakers"),
        ("batch status batch_1", "/v1/batches/batch_1"),
    ],
)
def test_while_the_api_is_waited_for(api, begun, words, path):
    api.hangs_at = path
    process = begun(*words.format(api.url).split())
    wait_until(lambda: any(path in asked for asked in api.asked))
    assert interrupted(process) == "fallthrough: interrupted\n"


def test_a_batch_that_is_created_in_that_moment_is_cancelled(api, begun):
    api.hangs_at = "/v1/batches"
    process = begun("batch", "p.txt")
    wait_until(lambda: "/v1/batches" in api.asked)
    process.send_signal(signal.SIGINT)
    api.goes_on.set()
    assert "what was created is cancelled: `fallthrough batch list`" in last_words(process)
    assert api.asked == ["/v1/files", "/v1/batches", "/v1/batches/it_2/cancel"]


def test_jobs_that_are_accepted_in_that_moment_are_told(api, begun):
    api.answers["/v1/jobs"] = (202, {"data": [{"id": "job_1"}, {"id": "job_2"}]})
    api.hangs_at = "/v1/jobs"
    process = begun("submit", "p.txt")
    wait_until(lambda: "/v1/jobs" in api.asked)
    process.send_signal(signal.SIGINT)
    api.goes_on.set()
    out, said = process.communicate(timeout=20)
    assert (process.returncode, out.split()) == (INTERRUPTED, ["job_1", "job_2"])
    assert "2 accepted" in said


def test_asked_twice_it_waits_for_nothing():
    reached, before = [], signal.getsignal(signal.SIGINT)

    def press(number):
        signal.raise_signal(signal.SIGINT)
        reached.append(number)

    with pytest.raises(KeyboardInterrupt), interrupt_held():
        list(map(press, (1, 2, 3)))
    assert reached == [1]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ApiFailedError, MemoryError])
def test_of_a_group_no_part_is_left(tmp_path, monkeypatch, error):
    monkeypatch.setattr(input_file, "MOST_LINES", 1)
    (tmp_path / "p.txt").write_text("one\ntwo\nthree\n")
    created, cancelled = [], []

    class Double:
        def upload(self, path, key):
            return {"id": path.name}

        def create_batch(self, *_):
            if len(created) == 2:
                raise error
            created.append(f"batch_{len(created)}")
            return {"id": created[-1]}

        def cancel_batch(self, batch_id):
            cancelled.append(batch_id)

        command = staticmethod(lambda *words: " ".join(words))

    with pytest.raises(error):
        create_batches(Double(), str(tmp_path / "p.txt"), "24h", {}, Shape())
    assert cancelled == created == ["batch_0", "batch_1"]


def test_a_retry_that_is_created_in_that_moment_is_told(api, begun):
    counts = {"total": 1, "completed": 0, "failed": 1}
    batch = {"id": "b1", "status": "completed", "request_counts": counts}
    api.answers["/v1/batches/b1"] = (200, batch)
    api.hangs_at = "/retry"
    process = begun("batch", "retry", "b1", "--detach", "--json")
    wait_until(lambda: "/v1/batches/b1/retry" in api.asked)
    process.send_signal(signal.SIGINT)
    api.goes_on.set()
    assert "come back with: fallthrough batch attach it_2" in last_words(process)


def test_what_a_shell_has_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt_held():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
