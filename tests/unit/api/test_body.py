"""Bodies, however they come."""

from __future__ import annotations

import time

import pytest
from starlette.requests import Request

from api.body import _read
from api.errors import ApiError


def request_of(pieces):
    left = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    left.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return left.pop(0)

    return Request({"type": "http", "headers": []}, receive)


@pytest.mark.parametrize("pieces", [[], [b"all"], [b"", b"all"], [b"a", b"l", b"", b"l"]])
async def test_it_is_what_came(pieces):
    content = await _read(request_of(pieces), 10)
    assert (content, type(content)) == (b"".join(pieces), bytes)


async def test_one_that_is_too_large_is_refused_as_soon_as_that_is_known():
    with pytest.raises(ApiError):
        await _read(request_of([b"a"] * 11), 10)


async def test_small_pieces_behind_a_large_one_cost_no_more_than_alone():
    async def cost(first):
        request = request_of([first, *[b"a"] * 3000])
        began = time.thread_time()
        await _read(request, 10_000_000)
        return time.thread_time() - began

    small = min([await cost(b"a") for _ in range(3)])
    large = min([await cost(b"a" * 4_000_000) for _ in range(3)])
    assert large < small + 0.25  # copied for each piece: 3,000 times 4 MB, seconds
