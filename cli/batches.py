"""Batches that the command line creates, follows, and fetches the results of."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from cli.client import ApiAwayError, ApiFailedError, check_name
from cli.input_file import input_files, temporary_folder
from cli.interrupt import interrupt_held, leave_on_interrupt
from cli.output import writing
from cli.patience import Patience
from cli.terminal import echo, echo_error, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from cli.client import Client
    from cli.input_file import InputFile
    from cli.prompts import Shape

POLL_INTERVAL_SECONDS = 0.5  # at first: a small batch ends at once
CALM_SECONDS = 2.0  # the same, of one that takes longer: as the API's openai-poll-after-ms says
SOON_SECONDS = 10.0  # that "at first" is
FINAL = frozenset({"completed", "failed", "expired", "cancelled"})
ERRORS_SHOWN = 10  # a screenful
BAR_CELLS = 20
TOLD_EVERY_SECONDS = 30.0  # without a terminal, or with one that shows no bar
SILENT_SECONDS = 5.0  # without a line, after which it is said that it waits
GROUP, PART = "group", "part"  # metadata of batches that one file was split into
_PART = re.compile(r"([0-9]{1,9})/[0-9]+")


class Created(NamedTuple):
    """The batches of one file. name: by which they are named as one. files: their inputs, by id."""

    name: str
    files: dict[str, InputFile]


def create_batches(
    client: Client, source: str, window: str, metadata: dict[str, str], shape: Shape
) -> Created:
    """Upload a file, and create its batch, or as many as its lines need.

    All or none: those that were created before one is refused, or Ctrl-C, are cancelled.
    """
    patience = Patience(echo_error, "no prompt is asked twice", is_known=False)
    with temporary_folder() as folder:
        files = input_files(source, folder, shape)
        uploaded = [patience.once(partial(client.upload, file.path))["id"] for file in files]
    group = f"group_{secrets.token_hex(8)}"
    created: dict[str, InputFile] = {}
    try:
        for number, (file, file_id) in enumerate(zip(files, uploaded, strict=True), 1):
            parts = {GROUP: group, PART: f"{number}/{len(files)}"} if len(files) > 1 else {}
            words = (file_id, file.endpoint, window, {**metadata, **parts})
            create = partial(client.create_batch, *words)
            patience.once(partial(_note, created, file, create))
    except BaseException as error:
        for batch_id in created:
            with contextlib.suppress(ApiFailedError):
                client.cancel_batch(batch_id)
        if isinstance(error, KeyboardInterrupt):
            shows = client.command("batch", "list")
            message = f"interrupted; what was created is cancelled: `{shows}` shows it"
            raise KeyboardInterrupt(message) from None
        raise
    return Created(group if len(files) > 1 else next(iter(created)), created)


def _note(
    created: dict[str, InputFile], file: InputFile, create: Callable[[str], Any], key: str
) -> None:
    """Create the batch of a file: one that is created is noted, whoever interrupts."""
    with interrupt_held():
        created[str(create(key)["id"])] = file


def ids_of(client: Client, names: Sequence[str]) -> list[str]:
    """Return the batches that these ids name: of a group's, those that its file was split into."""
    ids: list[str] = []
    for name in names:
        check_name(name)  # before anything is shown
        if not name.startswith("group_"):
            ids.append(name)
            continue
        found = [
            (int(part[1]), batch["id"])
            for batch in client.every_batch()
            if (metadata := batch["metadata"] or {}).get(GROUP) == name
            and (part := _PART.fullmatch(metadata.get(PART, "")))  # or it is its user's own group
            and "fallthrough_retry_of" not in metadata
        ]
        if not found:
            shows = client.command("batch", "list")
            message = f"there is no batch of {name}; `{shows}` shows which there are"
            raise ApiFailedError(message)
        ids += [batch_id for _, batch_id in sorted(found)]
    return ids


def merged(batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return batches as one: their lines counted together."""
    if len(batches) == 1:
        return batches[0]
    running = [batch["status"] for batch in batches if batch["status"] not in FINAL]
    bad = [batch["status"] for batch in batches if batch["status"] != "completed"]
    counts = [batch["request_counts"] for batch in batches]
    names = ("total", "completed", "failed")
    tiers: Counter[str] = Counter()
    models: dict[str, Counter[str]] = {}
    for batch in batches:
        told = batch.get("fallthrough", {})
        tiers.update(told.get("tiers", {}))
        for tier, lines in told.get("models", {}).items():
            models.setdefault(tier, Counter()).update(lines)
    rates = [rate for batch in batches if (rate := _rate(batch)) is not None]
    lines = {"lines_per_second": sum(rates) if rates else None, "tiers": dict(tiers)}
    metadata = batches[0].get("metadata") or {}
    return {
        "id": metadata.get(GROUP) or " ".join(batch["id"] for batch in batches),
        "object": "batch.group",
        "status": "in_progress" if running else (bad or ["completed"])[0],
        "request_counts": {name: sum(each[name] for each in counts) for name in names},
        "fallthrough": {**lines, "models": {k: dict(v) for k, v in models.items()}},
        "batches": list(batches),
    }


def follow(
    client: Client, ids: Sequence[str], say_how_to_come_back: Callable[[], None]
) -> list[dict[str, Any]]:
    """Show the progress of batches until they have ended; return them. Ctrl-C leaves them be."""
    display = _Display()

    def last_words() -> None:
        echo(f"so far: {display.line()}", err=True)
        say_how_to_come_back()

    # Before the cursor is hidden: from then on whoever interrupts gets it back.
    leave_on_interrupt(last_words)
    ended: dict[str, dict[str, Any]] = {}

    def say(text: str) -> None:
        display.progress.console.print(shown(text), markup=False)

    patience = Patience(say, "the batch goes on")
    calm_from = time.monotonic() + SOON_SECONDS

    def latest(batch_id: str) -> dict[str, Any]:
        return ended.get(batch_id) or patience.ask(lambda: client.batch(batch_id))

    with display.progress:
        while True:
            try:
                batches = [latest(each) for each in ids]
            except ApiAwayError:
                display.progress.stop()
                last_words()
                raise
            ended.update((b["id"], b) for b in batches if b["status"] in FINAL)
            display.show(merged(batches))
            if all(batch["status"] in FINAL for batch in batches):
                return batches
            # Each look counts as a request of this key's owner, who may have few a minute.
            is_calm = time.monotonic() > calm_from
            time.sleep(CALM_SECONDS if is_calm else POLL_INTERVAL_SECONDS)


class _Display:
    """A batch's progress on standard error: a bar, and in words how far and how fast it is."""

    def __init__(self) -> None:
        # All of it is to be seen in a narrow terminal, too: words go on in the next line.
        words = TextColumn(
            "{task.fields[said]}", markup=False, table_column=Column(overflow="fold")
        )
        self.progress = Progress(BarColumn(BAR_CELLS), words, console=Console(stderr=True))
        self._said = "nothing is known of it yet"
        self._bar = self.progress.add_task("", total=None, said=self._said)
        self._moved = self._told = time.monotonic()
        self._lines = 0

    def line(self) -> str:
        """Say how far it is."""
        return self._said

    def show(self, batch: dict[str, Any]) -> None:
        counts = batch["request_counts"]
        lines = counts["completed"] + counts["failed"]
        now = time.monotonic()
        if lines != self._lines:
            self._lines, self._moved = lines, now
        waits = batch["status"] == "in_progress" and now - self._moved > SILENT_SECONDS
        status = f"no line for {now - self._moved:.0f} s" if waits else batch["status"]
        told = (status, f"{lines} of {counts['total']} lines", pace_of(batch), _summary(batch))
        self._said = ", ".join(each for each in told if each)
        total = counts["total"] or None
        self.progress.update(self._bar, total=total, completed=lines, said=self._said)
        if not self.progress.console.is_interactive and now - self._told > TOLD_EVERY_SECONDS:
            self._told = now
            echo(f"{time.strftime('%H:%M:%S')} {self._said}", err=True)


def pace_of(batch: dict[str, Any]) -> str:
    """Say how fast it goes of late, and how long it will take so; "" while it does not run."""
    rate = _rate(batch)
    if rate is None:
        return ""
    counts = batch["request_counts"]
    left = counts["total"] - counts["completed"] - counts["failed"]
    seconds = f", {timedelta(seconds=round(left / rate))} left" if rate else ""
    return f"{rate:,.1f} lines/s{seconds}"


def _rate(batch: dict[str, Any]) -> float | None:
    rate: float | None = (batch.get("fallthrough") or {}).get("lines_per_second")
    return rate


def _models(batch: dict[str, Any]) -> str:
    """Return which models answered how many lines, those that answered most first; "" for none."""
    by_tier = batch.get("fallthrough", {}).get("models", {})
    lines = {
        f"{tier} {model}": number
        for tier, models in by_tier.items()
        for model, number in models.items()
    }
    most_first = sorted(lines.items(), key=lambda each: -each[1])
    return ", ".join(f"{number} by {name}" for name, number in most_first)


def _summary(batch: dict[str, Any]) -> str:
    tiers = batch.get("fallthrough", {}).get("tiers", {})
    summary = "  ".join(f"{tier} {number}" for tier, number in sorted(tiers.items()) if tier != "-")
    failed = batch["request_counts"]["failed"]
    return summary + (f"  failed {failed}" if failed else "")


def download(client: Client, batches: Sequence[dict[str, Any]], output: Path) -> bool:
    """Write the results of batches that have ended; return whether there are any."""
    names = ("output_file_id", "error_file_id")
    files = [batch[name] for batch in batches for name in names if batch[name]]
    if not files:  # a batch that was never run leaves what was there before
        return False
    again = client.command("batch", "results", *(batch["id"] for batch in batches))
    patience = Patience(echo_error, "the results are kept")
    with writing(output, f"get them again: {again}") as target:
        for file_id in files:
            patience.ask(partial(client.download, file_id, target))
    return True


def finish(
    client: Client,
    batches: Sequence[dict[str, Any]],
    output: Path,
    files: Mapping[str, InputFile | None],
) -> int:
    """Download the results, and say how it ended; return the exit status.

    files: what the batches ask, by id, where it is this command that sent it.
    """
    there = download(client, batches, output)
    print_errors(client, batches, files)
    whole = merged(batches)
    counts = whole["request_counts"]
    echo(
        f"{whole['id']} {whole['status']}: {counts['completed']} answered, "
        f"{counts['failed']} failed, of {counts['total']}"
        + (f"; results in {output}" if there else ""),
        err=True,
    )
    if models := _models(whole):
        echo(f"answered: {models}", err=True)
    return _verdict(client, batches, output if there else None)


def to_be_retried(batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those with lines to be asked again, those first that the API refuses.

    Those still run, or never began. If there are none, the first: the API says why not.
    """
    refused_first = sorted(batches, key=lambda b: b["status"] in FINAL and _was_asked(b))
    return [batch for batch in refused_first if _unanswered(batch)] or refused_first[:1]


def _degraded(batch: dict[str, Any]) -> int:
    return int(batch.get("fallthrough", {}).get("tiers", {}).get("degraded", 0))


def _unanswered(batch: dict[str, Any]) -> int:
    """Return how many lines neither a model nor a cache answered."""
    counts = batch["request_counts"]
    return int(counts["total"] - counts["completed"]) + _degraded(batch)


def _was_asked(batch: dict[str, Any]) -> bool:
    """Whether any line of a batch that has ended was asked: its input passed validation."""
    counts = batch["request_counts"]
    return bool(counts["completed"] or counts["failed"]) or (
        bool(counts["total"]) and batch["status"] != "failed"
    )


def _verdict(client: Client, batches: Sequence[dict[str, Any]], output: Path | None) -> int:
    """Say what was not answered by a model or a cache, and what to do; return the exit status.

    output: where results are; None: there are none.
    """
    whole = merged(batches)
    counts, degraded, unanswered = whole["request_counts"], _degraded(whole), _unanswered(whole)
    if whole["status"] == "completed" and not unanswered:
        return 0
    asked = [batch for batch in batches if _was_asked(batch)]
    if not asked:
        echo("no prompt was asked: mend what is said above, and send the file again", err=True)
        return 1
    for batch in batches:
        if fault := _fault_of(client, batch, output):
            echo(f"{_titled(batch)} {batch['status']}: {fault}", err=True)
    if unanswered:
        ids = [batch["id"] for batch in asked if _unanswered(batch)]
        again = f"; ask those again: {client.command('batch', 'retry', *ids)}" if ids else ""
        echo(
            f"{unanswered} of {counts['total']} prompts were not answered by a model or a cache "
            f"({degraded} degraded, {unanswered - degraded} without an answer){again}",
            err=True,
        )
    return 1


def _titled(batch: dict[str, Any]) -> str:
    """Return a batch's id, and which part of its file it is."""
    part = (batch.get("metadata") or {}).get(PART)
    return f"{batch['id']} (part {part})" if part else str(batch["id"])


def _fault_of(client: Client, batch: dict[str, Any], output: Path | None) -> str:
    """Say what the results of a batch lack, and what to do; "": each of its lines is there."""
    if not _was_asked(batch):
        others = f"; the results of the others are in {output}" if output else ""
        return (
            f"none of its prompts was asked: mend what is said above, and send them again{others}"
        )
    if batch["status"] != "failed" or batch["output_file_id"] or batch["error_file_id"]:
        return ""
    written = client.command("batch", "results", batch["id"])
    return f"its results were not put together; what was written of them: {written}"


def print_errors(
    client: Client, batches: Sequence[dict[str, Any]], files: Mapping[str, InputFile | None]
) -> None:
    """Say what is wrong with the first lines that have no answer, and how many there are.

    files: as `finish` has them.
    """
    for batch in batches:
        found = (batch.get("errors") or {}).get("data", [])
        number = max(batch["request_counts"]["failed"], len(found))
        if not number:
            continue
        try:
            errors = client.errors(batch["id"], ERRORS_SHOWN)
        except ApiFailedError as reason:  # the results are there all the same
            echo(f"{number} without an answer; why could not be read: {reason}", err=True)
            continue
        its = "the batch's" if len(batches) == 1 else f"{batch['id']}'s"
        for error in errors:
            where = _where(error.get("line"), files.get(batch["id"]), its)
            echo(f"{where}{error['message']} ({error['code']})", err=True)
        if len(found) > ERRORS_SHOWN:  # validation's: no line was asked, and none has a result
            more = client.command("batch", "status", batch["id"], "--json")
            echo(f"… and {number - ERRORS_SHOWN} more: {more}", err=True)
        elif number > ERRORS_SHOWN:
            more = client.command("batch", "results", batch["id"])
            echo(f"… and {number - ERRORS_SHOWN} more without an answer: {more}", err=True)


def _where(line: int | None, file: InputFile | None, whose: str) -> str:
    """Return where a fault is, for people. whose: the file is if it is not known."""
    if not line:
        return ""
    return f"{file.place(line)}: " if file else f"line {line} of {whose} file: "
