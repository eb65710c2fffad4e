"""What a long-running process does with itself."""

from __future__ import annotations

import asyncio
import gc
import platform
import socket
import subprocess
import sys

import pytest
from harness.waiting import turns

from tasks import process


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_is_listened_on_at_once(host):
    try:
        listening = process.listen(host, 0)
    except OSError:
        if host == "127.0.0.1" or socket.has_ipv6:
            raise
        return
    with listening:
        assert listening.getsockname()[1]
        with socket.create_connection(listening.getsockname()[:2], timeout=5):
            pass


def test_a_port_that_is_taken_stops_the_start():
    """Of two that start at once, too: both could bind it, and the second served nobody."""
    with process.listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="in use"):
        process.listen("127.0.0.1", taken.getsockname()[1])


def test_what_is_there_at_the_start_is_not_looked_through_again():
    before = gc.get_threshold()
    try:
        process.freeze_garbage()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == process.GARBAGE_THRESHOLDS
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


# conftest.py has this process pass cancels on, as each of ours does.


async def at_once():
    """As redis-py sends a command: nothing is waited for."""


async def after_a_turn():
    await asyncio.sleep(0)


def a_future():
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    return future


@pytest.mark.parametrize("what", [at_once, after_a_turn, a_future])
@pytest.mark.parametrize("moment", range(6))
async def test_who_is_cancelled_while_he_waits_for_something_goes_on_at_no_moment(what, moment):
    async def wait():
        await asyncio.wait_for(what(), 30)
        await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await turns(moment)
    waiting.cancel()
    ended, _ = await asyncio.wait([waiting], timeout=1)
    assert [each.cancelled() for each in ended] == [True]


@pytest.mark.parametrize("seconds", [0.01, 0, -1])
async def test_what_takes_longer_than_it_is_waited_for_is_cancelled(seconds):
    never = asyncio.get_running_loop().create_future()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(never, seconds)
    assert never.cancelled()
    begun = []

    async def begin():
        begun.append("it")

    if seconds <= 0:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(begin(), seconds)
        assert begun == []
    assert await asyncio.wait_for(asyncio.sleep(0, "here"), None) == "here"


def test_a_process_ends_at_once_whatever_its_threads_do():
    program = (
        "import threading; from tasks.process import end; "
        "threading.Thread(target=threading.Event().wait).start(); end()"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=20, check=False)
    assert ended.returncode == process.DIED


def test_a_process_that_is_not_stopped_in_time_ends_itself_and_says_so():
    program = (
        "import threading; from tasks import process; process.HAND_OVER_SECONDS = 0.1; "
        "process.end_after(0.1); threading.Event().wait()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], timeout=20, check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (
        process.DIED,
        "not stopped in time: this process ends now\n",
    )


MUCH_AND_LITTLE = """
from pathlib import Path
from tasks import process

def megabytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20

if {told}:
    process.give_back_memory()
before = megabytes()
bytearray(5_000_000)  # from now on glibc takes so much from its heap
kept = []
for _ in range(20):
    large = [bytearray(4_000_000) for _ in range(5)]
    kept.append(bytearray(2_000))
    del large
    kept += [bytearray(3_900_000), bytearray(2_000)]
kept = [each for each in kept if len(each) < 10_000]
print(megabytes() - before)
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="of glibc's malloc")
@pytest.mark.parametrize("told", [True, False])
def test_large_blocks_that_are_free_go_back_to_the_system(told):
    command = [sys.executable, "-c", MUCH_AND_LITTLE.format(told=told)]
    grown = float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert (grown < 5) is told
