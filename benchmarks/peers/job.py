"""What a job of every queue does here: it calls the upstream, and its answer is kept."""

from __future__ import annotations

import os
import sys

UPSTREAM = os.environ["PEERS_UPSTREAM"] + "/v1/chat/completions"
STORE = os.environ["PEERS_STORE"]
AT_ONCE = 64


def number() -> int:
    """Return how many jobs this program enqueues."""
    return int(sys.argv[1])


def body(prompt: str) -> dict[str, object]:
    """Return a request's body."""
    return {"model": "bench", "messages": [{"role": "user", "content": prompt}], "max_tokens": 64}


def prompt(index: int) -> str:
    """Return a prompt."""
    return f"A prompt of some words, {index}."
