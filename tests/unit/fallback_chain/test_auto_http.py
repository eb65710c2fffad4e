"""Which client asks a server: the one whose calls can be cut off, unless they end soon anyway."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from fallback_chain import Reply, UpstreamError
from fallback_chain.auto_http import CALLS, SHORT_SECONDS, AutoHttp


class Client:
    """Notes what it is asked; each call takes so long, by the clock of the test."""

    def __init__(self, clock) -> None:
        self.clock, self.asked, self.seconds, self.fails, self.closed = clock, 0, 0.1, "", False
        self.status = 200

    async def request(self, method, url, **_):
        self.asked += 1
        self.clock.now += self.seconds
        if self.fails:
            raise UpstreamError(self.fails, self.fails)
        return Reply(self.status, {}, b"")

    def stream(self, method, url, **_):
        return f"stream of {url}", self

    async def aclose(self):
        self.closed = True


class Clock:
    now = 100.0


class Stand:
    def __init__(self, monkeypatch) -> None:
        clock = Clock()
        monkeypatch.setattr("fallback_chain.auto_http.time.monotonic", lambda: clock.now)
        self.quick, self.cut_off = Client(clock), Client(clock)
        self.http = AutoHttp(self.quick, self.cut_off)

    async def call(self, times=1, *, host="gpu", method="POST", seconds=0.1):
        """Return who was asked by the last one."""
        self.quick.seconds = self.cut_off.seconds = seconds
        for _ in range(times):
            before = self.quick.asked
            await self.http.request(
                method,
                f"http://{host}/v1/chat/completions",
                headers={},
                content=None,
                timeout_seconds=5,
            )
        return "quick" if self.quick.asked > before else "cut off"


@pytest.fixture
def stand(monkeypatch):
    return Stand(monkeypatch)


async def test_a_server_is_quick_once_enough_of_its_calls_in_a_row_were(stand):
    assert await stand.call(CALLS) == "cut off"
    assert await stand.call() == "quick"


async def test_one_that_lasts_makes_it_none_until_it_is_forgotten(stand):
    await stand.call(CALLS + 5)
    await stand.call(seconds=SHORT_SECONDS + 0.1)
    assert await stand.call(CALLS - 1) == "cut off"
    assert await stand.call() == "cut off"
    assert await stand.call() == "quick"


async def test_each_server_is_known_by_itself_and_lists_say_nothing(stand):
    await stand.call(CALLS)
    assert await stand.call(CALLS, host="cpu", method="GET") == "cut off"
    assert await stand.call(host="cpu") == "cut off"
    assert await stand.call() == "quick"


async def test_a_call_that_hangs_until_it_is_cut_off_counts(stand, monkeypatch):
    await stand.call(CALLS)

    async def hang(*_, **__):
        stand.quick.clock.now += 10
        await asyncio.sleep(60)

    stand.quick.request = hang
    calling = asyncio.create_task(stand.call())
    await asyncio.sleep(0.01)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert await stand.call() == "cut off"


@pytest.mark.parametrize("comes", ["429", "connect"])
async def test_what_is_turned_away_at_once_says_nothing_of_how_long_an_answer_takes(stand, comes):
    for client in (stand.quick, stand.cut_off):
        client.status, client.fails = (429, "") if comes == "429" else (200, comes)
    for _ in range(CALLS):
        with contextlib.suppress(UpstreamError):
            await stand.call()
    for client in (stand.quick, stand.cut_off):
        client.status, client.fails = 200, ""
    assert await stand.call() == "cut off"


async def test_a_certificate_that_the_quick_one_does_not_take_costs_no_call(stand):
    await stand.call(CALLS)
    stand.quick.fails = "tls"
    assert await stand.call() == "quick"
    assert stand.cut_off.asked == CALLS + 1
    assert await stand.call(2 * CALLS) == "cut off"


async def test_a_stream_goes_by_the_one_whose_calls_can_be_cut_off(stand):
    await stand.call(CALLS)
    assert await stand.call() == "quick"
    asked = {"headers": {}, "content": None, "timeout_seconds": 5}
    assert stand.http.stream("POST", "http://gpu", **asked) == (
        "stream of http://gpu",
        stand.cut_off,
    )


async def test_what_else_goes_wrong_with_the_quick_one_is_told(stand):
    await stand.call(CALLS)
    stand.quick.fails = "reset"
    with pytest.raises(UpstreamError):
        await stand.call()
    assert stand.cut_off.asked == CALLS


async def test_what_fails_is_told_and_what_is_open_is_closed(stand):
    stand.cut_off.fails = "connect"
    with pytest.raises(UpstreamError):
        await stand.call()
    await stand.http.aclose()
    assert stand.quick.closed
    assert stand.cut_off.closed
