"""`fallthrough demo`: a batch falls through the chain, and comes back; each claim is checked.

It runs on a stack of its own, on loopback and in a temporary folder, with two small models: nothing
of what its user has set, started or stored is used.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from cli.batches import FINAL, create_batches
from cli.client import Client
from cli.interrupt import INTERRUPTED
from cli.prompts import Shape
from cli.stack.embedded import embedded_stack
from cli.stack.parts import CPU, GPU, MODELS, UpOptions
from cli.terminal import shown
from tasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cli.stack.supervisor import Supervisor

BREAKERS = {GPU: "max_gpu", CPU: "ollama_cpu"}
# An outage is noticed at its first failure, and its end a second later, so that both are seen soon.
SETTINGS = Settings(
    host="127.0.0.1",
    breaker_failure_threshold=1,
    breaker_success_threshold=1,
    breaker_recovery_seconds=1.0,
    breaker_recovery_multiplier=1.0,
    breaker_ramp_seconds=0.0,
)
POLICY = {"fallthrough_cache": "fallback", "fallthrough_on_exhausted": "degraded"}
SHAPE = Shape(defaults={"max_tokens": 12, "temperature": 0})
PATIENCE_SECONDS = 60.0  # on a machine that is busy
DEGRADED_SECONDS = 1.0  # that a tier's breaker keeps a call from taking longer
POLL_SECONDS = 0.05


class NotSeenError(Exception):
    """Something that the demo is to show did not happen."""


def run_demo() -> int:
    """Show everything; return 0 only if each thing was really seen."""
    console = Console(highlight=False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(INTERRUPTED))
    with tempfile.TemporaryDirectory(prefix="fallthrough-demo-") as folder:
        try:
            _run_on_own_stack(Path(folder), console)
        except NotSeenError as error:
            console.print(f"[bold red]Not seen:[/] {error}")
            return 1
        except KeyboardInterrupt:
            console.print("stopped")
            return INTERRUPTED
    console.print("[bold green]All of it was seen.[/]  Next: ./run up")
    return 0


def _run_on_own_stack(folder: Path, console: Console) -> None:
    options = UpOptions(0, 0, embedded_cpu=True, embedded_gpu=True)
    with embedded_stack(SETTINGS, frozenset(), options, folder, click.echo) as (supervisor, layout):
        console.print(f"[bold]Starting[/] {', '.join(supervisor.processes)} …")
        supervisor.start()
        console.print(f"watch it: {layout.api_url}")
        with Client(layout.api_url) as client:
            Demo(supervisor, client, console, folder).run()
        console.print("\n[bold]Stopping[/] everything …")


class Demo:
    """The stages, one after another."""

    def __init__(
        self, supervisor: Supervisor, client: Client, console: Console, folder: Path
    ) -> None:
        self._supervisor, self._client, self._console = supervisor, client, console
        self._folder = folder
        self._prompts = (files("cli") / "demo_prompts.jsonl").read_text()
        self._answers: set[str] = set()

    def run(self) -> None:
        """Show the way down and the way back; raises NotSeenError."""
        self._console.print(
            "Both model servers run the same small model, on this machine's CPU; one stands for a "
            "GPU server."
        )
        self._down()
        self._back()

    def _down(self) -> None:
        self._heading("A batch of four prompts, all servers up")
        self._expect_tier(GPU, self._batch(self._prompts))
        self._heading("The GPU server is stopped; the same batch again")
        self._supervisor.stop_part(MODELS[GPU])
        self._expect_tier(CPU, self._batch(self._prompts))
        self._expect(self._state(GPU) == "open", "the breaker of the GPU tier is open")
        self._heading("The CPU server is stopped, too; the same batch again")
        self._supervisor.stop_part(MODELS[CPU])
        texts = set(self._answers)
        lines = self._batch(self._prompts)
        self._expect_tier("cache", lines)
        self._expect({_text(line) for line in lines} <= texts, "they are the answers given before")
        self._heading("A prompt that nobody has answered before")
        self._degraded()

    def _degraded(self) -> None:
        request = {"prompt": "Name a city in Japan.", "max_tokens": 8}
        began = time.monotonic()
        job = self._client.job(self._client.submit([request])[0]["id"], PATIENCE_SECONDS / 2)
        seconds = time.monotonic() - began
        self._show(str(job["tier_used"]), "city", job["text"] or "")
        honest = job["degraded"] and job["text"] == SETTINGS.degraded_message
        claim = f"an honest degraded answer, within {DEGRADED_SECONDS:g} s"
        self._expect(honest and seconds < DEGRADED_SECONDS, claim)

    def _back(self) -> None:
        for tier, prompt in ((CPU, "Name a color of the rainbow."), (GPU, "What do bees make?")):
            self._heading(f"The {tier.upper()} server is started again; a new batch")
            self._supervisor.start_part(MODELS[tier])
            self._wait(partial(self._takes_a_probe, tier), f"the {tier.upper()} tier is due")
            self._expect_tier(tier, self._batch(_line("new", prompt)))
        closed = all(self._state(tier) == "closed" for tier in BREAKERS)
        self._expect(closed, "both breakers are closed again, and the GPU tier answers")

    def _batch(self, prompts: str) -> list[dict[str, Any]]:
        """Send prompts as a file; show and return the lines of its results, in their order."""
        path = self._folder / "prompts.jsonl"
        path.write_text(prompts)
        [batch_id] = create_batches(self._client, str(path), "1h", POLICY, SHAPE).files
        self._wait(
            lambda: self._client.batch(batch_id)["status"] in FINAL, f"batch {batch_id} has ended"
        )
        order = [json.loads(line)["custom_id"] for line in prompts.splitlines()]
        lines = sorted(
            self._client.results(batch_id), key=lambda line: order.index(line["custom_id"])
        )
        for line in lines:
            self._show(_tier(line), line["custom_id"], _text(line))
        self._answers |= {_text(line) for line in lines}
        if len(lines) != len(order):
            message = f"each of {len(order)} lines has a result"
            raise NotSeenError(message)
        return lines

    def _show(self, tier: str, label: str, text: str) -> None:
        head = f"  {tier:8} {label:8} "
        words = shown(" ".join(text.split()))
        width = max(self._console.width - len(head) - 1, 20)
        excerpt = words if len(words) <= width else words[: width - 1] + "…"
        self._console.print(head + excerpt, markup=False, highlight=False, soft_wrap=True)

    def _state(self, tier: str) -> str:
        return str(self._client.breakers()[BREAKERS[tier]]["state"])

    def _takes_a_probe(self, tier: str) -> bool:
        """Whether a call goes to it: it may have been found away once more as it started."""
        return not self._client.breakers()[BREAKERS[tier]]["retry_after_seconds"]

    def _wait(self, seen: Callable[[], bool], claim: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not seen():
            if time.monotonic() > deadline:
                raise NotSeenError(claim)
            time.sleep(POLL_SECONDS)

    def _heading(self, text: str) -> None:
        self._console.print(f"\n[bold]{text}[/]")

    def _expect_tier(self, tier: str, lines: Iterable[dict[str, Any]]) -> None:
        by = "from the cache" if tier == "cache" else f"by the {tier.upper()} tier"
        answered = all(_tier(line) == tier and _text(line).strip() for line in lines)
        self._expect(answered, f"every line was answered {by}")

    def _expect(self, condition: bool, claim: str) -> None:  # noqa: FBT001 - as assert has it
        if not condition:
            raise NotSeenError(claim)
        self._tick(claim)

    def _tick(self, claim: str) -> None:
        self._console.print(f"  [green]✓[/] {claim}")


def _line(custom_id: str, prompt: str) -> str:
    return json.dumps({"custom_id": custom_id, "prompt": prompt}) + "\n"


def _tier(line: dict[str, Any]) -> str:
    return str(line["fallthrough"].get("tier_used", "-"))


def _text(line: dict[str, Any]) -> str:
    body = (line["response"] or {}).get("body") or {}
    return str((body.get("choices") or [{"message": {}}])[0]["message"].get("content") or "")
