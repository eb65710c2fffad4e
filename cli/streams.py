"""An answer that the command line tells as it comes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from cli.client import FINAL, ApiAwayError
from cli.patience import AGAIN_SECONDS, AWAY_SECONDS
from cli.terminal import Speech, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from cli.client import Client


def tell(client: Client, job_id: str, console: Console) -> dict[str, Any]:
    """Print a job's answer as it comes; return the finished job, of which nothing is left to tell.

    console: says what is waited for until the first word. Where the connection breaks the answer
    goes on from there; raises ApiAwayError if that cannot be had for AWAY_SECONDS, and
    ApiFailedError.
    """
    speech = Speech()
    try:
        with console.status("waiting") as status:

            def say(text: str) -> None:
                status.stop()
                speech.say(text)

            job = _follow(client, job_id, say, lambda what: status.update(shown(what)))
        _tell_rest(speech, job["text"])
    finally:
        speech.end()
    return job


def _follow(
    client: Client, job_id: str, say: Callable[[str], None], wait_for: Callable[[str], None]
) -> dict[str, Any]:
    """Say each piece of an answer once; return the finished job."""
    last = -1  # the sequence number of the last chunk
    until = time.monotonic() + AWAY_SECONDS
    while True:
        try:
            for event in client.stream(job_id, last):
                if isinstance(event, str):
                    wait_for(event)
                    continue
                last = event["sequence_number"]
                if text := _text_of(event):
                    say(text)
            job = client.job(job_id)
            if job["status"] in FINAL:
                return job
            until = time.monotonic() + AWAY_SECONDS
        except ApiAwayError:
            if time.monotonic() > until:
                raise
        time.sleep(AGAIN_SECONDS)


def _text_of(chunk: dict[str, Any]) -> str:
    """Return what a chunk says of the first choice."""
    deltas = (each["delta"] for each in chunk["choices"] if not each.get("index"))
    texts = (delta.get("content") for delta in deltas)
    return "".join(text for text in texts if isinstance(text, str))


def _tell_rest(speech: Speech, whole: str | None) -> None:
    """Say what a whole answer has that did not come piece by piece."""
    told = speech.text
    if not whole or whole == told:
        return
    if whole.startswith(told):
        speech.say(whole.removeprefix(told))
    else:
        speech.say(f"\n{whole}")
