"""Needs and tiers: each request goes to the tiers that have what it needs."""

from __future__ import annotations

from itertools import product

import httpx
import pytest


def part(**content):
    return {"messages": [{"role": "user", "content": [content]}]}


HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
NEEDS = {
    "schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": {}}}
    },
    "json": {"response_format": {"type": "json_object"}},
    "tools": {"tools": [{"type": "function", "function": {"name": "look"}}]},
    "images": part(type="image_url", image_url={"url": "data:image/png;base64,AA=="}),
    "audio": part(type="input_audio", input_audio={"data": "AA==", "format": "wav"}),
    "video": part(type="video_url", video_url={"url": "data:video/mp4;base64,AA=="}),
    "files": part(type="file", file={"file_data": "data:application/pdf;base64,AA=="}),
    "n": {"n": 2},
    "logprobs": {"logprobs": True},
}
FORMS = {"schema", "json"}  # which the stub's prose is not, and no message of ours


@pytest.mark.parametrize("accepts", ["", "text", "images,json"])
def test_a_request_goes_to_the_tiers_that_have_what_it_needs(fleet, gpu, cpu, accepts):
    worker = fleet.worker(cpu_accepts=accepts, breaker_failure_threshold=1000)
    api, _ = fleet.start(fleet.api(), worker)
    with httpx.Client(base_url=api.url, timeout=30) as http:
        for need, fields in NEEDS.items():
            for gpu.mode in ("500", "ok"):
                cpu.calls.clear()
                body = {**HELLO, **fields, "user": f"{need} {gpu.mode}"}
                reply = http.post("/v1/chat/completions", json=body)
                by = reply.headers.get("x-fallthrough-tier", "")
                if gpu.mode == "ok":
                    fit = reply.headers.get("x-fallthrough-fit")
                    assert (by, fit) == ("gpu", "failed" if need in FORMS else None)
                    continue
                has = not accepts or need in accepts.split(",")
                assert len(cpu.calls) == int(has), need
                if need in FORMS:
                    assert (reply.status_code, by) == (503, ""), need
                    assert reply.json()["error"]["code"] == "tiers_exhausted"
                else:
                    assert (reply.status_code, by) == (200, "cpu" if has else "degraded"), need


def test_what_no_tier_has_is_said_at_once_whatever_the_policy(fleet):
    worker = fleet.worker(cpu_accepts="text", gpu_accepts="text")
    api, _ = fleet.start(fleet.api(), worker)
    with httpx.Client(base_url=api.url, timeout=30) as http:
        for fields, policy in product(NEEDS.values(), ("wait", "degraded", "fail")):
            body = {**HELLO, **fields, "fallthrough": {"on_exhausted": policy}}
            error = http.post("/v1/chat/completions", json=body).json()["error"]
            assert (error["code"], error["type"]) == ("no_tier_fits", "invalid_request_error")
