"""What is wrong with a stack, and what to do: rows of part, check, state, detail, advice."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import httpx

from cli import environment
from cli.advice import command
from cli.breakers import notes, state
from cli.check import FAILED, OK, Row
from cli.client import ApiAwayError, ApiFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cli.client import Client
    from cli.stack.running import Running, RunningPart

NONE = "none"  # there is no such thing, or it may not be asked
LEAST_FREE = 1024**3  # bytes of a disk: below that a large batch's results may not fit
READY_SECONDS = 3.0
READINESS = {"worker": "/health/ready", "model": "/health", "flower": "/healthcheck"}


def row(part: str, check: str, state: str, detail: str, advice: str = "") -> Row:
    """Return one check of one part."""
    return {"part": part, "check": check, "state": state, "detail": detail, "advice": advice}


def rows_of_stack(stack: Running, client: Client) -> Iterator[Row]:
    """Yield what there is to say of the processes of `fallthrough up`, and of its disk."""
    if not stack.parts:
        detail = f"`fallthrough up` on {stack.data} is starting, or stopping"
        yield row("up", "process", FAILED, detail, "ask again when it says where the API is")
    for part in stack.parts:
        yield _row_of_part(part)
    yield row_of_disk(stack.data, client)


def row_of_no_stack(data: Path) -> Row:
    """Return what to say where no `fallthrough up` runs."""
    up = command("up", *environment.options_of(data))
    advice = f"start one: {up}; or name its --data-dir, or a server elsewhere by --url"
    return row("up", "process", NONE, f"no `fallthrough up` runs on {data}", advice)


def _row_of_part(part: RunningPart) -> Row:
    advice = f"`fallthrough up` starts it again; why it ended: {part.log}"
    if part.pid is None:
        return row(part.part, "process", FAILED, "it does not run", advice)
    path = READINESS.get(part.part.partition("-")[0])
    if path and (fault := _fault_at(part.url + path)):
        return row(part.part, "process", FAILED, f"{part.url} {fault}", f"look at {part.log}")
    return row(part.part, "process", OK, f"{part.url}, pid {part.pid}")


def _fault_at(url: str) -> str:
    """Return why what listens there is not well; "": it is."""
    try:
        reply = httpx.get(url, timeout=READY_SECONDS, trust_env=False)
    except httpx.HTTPError as error:
        return f"does not answer: {error or type(error).__name__}"
    if reply.is_success:
        return ""
    try:
        return f"says: {', '.join(reply.json()['reasons'])}"
    except (ValueError, KeyError, TypeError):
        return f"answers {reply.status_code}"


def row_of_disk(folder: Path, client: Client) -> Row:
    """Return how much room there is where jobs, files and logs lie."""
    try:
        room = shutil.disk_usage(folder)
    except OSError as error:
        return row("disk", "room", FAILED, f"{folder}: {error.strerror}", "mend its permissions")
    free, whole = (number / 1024**3 for number in (room.free, room.total))
    detail = f"{free:.1f} of {whole:.1f} GiB are free in {folder}"
    if room.free >= LEAST_FREE:
        return row("disk", "room", OK, detail)
    files = client.command("files", "list")
    advice = f"make room, or delete files of batches that nobody needs: {files}"
    return row("disk", "room", FAILED, detail, advice)


def rows_of_api(client: Client) -> Iterator[Row]:
    """Yield what the API says of itself and of the fleet: its workers, queues and breakers."""
    try:
        reasons = client.not_ready()
    except ApiFailedError as error:
        yield _refused("reach", FAILED, error)
        return
    yield row("api", "reach", OK, f"{client.url} answers")
    if reasons:
        advice = "look at the rows of store and broker, and at the API's log"
        yield row("api", "ready", FAILED, ", ".join(reasons), advice)
        return
    yield row("api", "ready", OK, "it takes work")
    try:
        counts, views = client.metrics(), client.breakers()
    except ApiFailedError as error:  # or it is an admin's to see
        yield _refused("fleet", FAILED if isinstance(error, ApiAwayError) else NONE, error)
        return
    yield from _rows_of_fleet(counts)
    yield from (_row_of_breaker(client, name, view) for name, view in views.items())


def _refused(check: str, state: str, error: ApiFailedError) -> Row:
    detail, _, advice = str(error).partition("; ")
    return row("api", check, state, detail, advice)


def _rows_of_fleet(counts: Mapping[str, Any]) -> Iterator[Row]:
    number, waiting = counts["workers"], _waiting(counts)
    if number:
        yield row("workers", "number", OK, str(number))
    else:
        advice = "start one: python -m workers (`fallthrough up` has its own: see its logs)"
        yield row("workers", "number", FAILED, "no worker is there: nothing is answered", advice)
    detail = ", ".join(f"{n} in {queue}" for queue, n in waiting.items()) or "nothing waits"
    if oldest := max(counts["oldest_seconds"].values(), default=0):
        detail += f", the oldest for {oldest:.0f} s"
    if counts["parked"]:
        detail += f"; {counts['parked']} wait for a tier"
    yield row("queues", "waiting", OK, f"{detail}; {counts['running']} run")


def _waiting(counts: Mapping[str, Any]) -> dict[str, int]:
    prefix = "queued_"
    found = {name.removeprefix(prefix): n for name, n in counts.items() if name.startswith(prefix)}
    return {queue: n for queue, n in found.items() if n}


def _row_of_breaker(client: Client, name: str, view: dict[str, Any]) -> Row:
    if not view["configured"]:
        return row(name, "breaker", NONE, "its tier is not set up")
    detail = "; ".join([state(view), *notes(view)])
    if view["override"]:
        advice = f"{client.command('breakers', 'auto', name)} ends that"
        return row(name, "breaker", FAILED, detail, advice)
    if view["state"] == "closed" and not view["hold_reason"] and not view.get("troubles"):
        return row(name, "breaker", OK, detail)
    reset = client.command("breakers", "reset", name)
    advice = f"mend its server; it closes by itself, or at once: {reset}"
    return row(name, "breaker", FAILED, detail, advice)
