"""Streams as tests follow them, and the jobs behind them."""

from __future__ import annotations

import httpx

from harness.reader import Reader, chat

PROMPT = 1.8  # seconds, where others are tested meanwhile: what is promised is one
LONG = {"gpu_timeout_seconds": 30, "gpu_first_token_seconds": 30}


def job_of(reader):
    return reader.header("x-fallthrough-job-id")


def job(api, job_id):
    return httpx.get(f"{api.url}/v1/jobs/{job_id}").json()


def status_of(api, job_id):
    return job(api, job_id)["status"]


def newest(api):
    return httpx.get(f"{api.url}/v1/jobs").json()["data"][0]


def submit(api, prompt="w", **fields):
    """Make a job that can be followed; return its id."""
    return httpx.post(f"{api.url}/v1/jobs", json=chat(prompt, **fields)).json()["id"]


def stream_path(job_id, after=None):
    asked = "" if after is None else f"?starting_after={after}"
    return f"/v1/jobs/{job_id}/stream{asked}"


def follow(api, job_id, after=None):
    return Reader(api.url, path=stream_path(job_id, after))


def words(number, prompt="w"):
    return " ".join(f"{prompt}.{n}" for n in range(number))


def numbers(reader):
    return [chunk["sequence_number"] for chunk in reader.chunks]
