"""`fallthrough demo`: the whole product in a minute, on real parts; each claim is checked."""

from __future__ import annotations

import dataclasses
import itertools
import signal
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from cli.client import Client
from cli.interrupt import INTERRUPTED
from cli.jobs import milliseconds, submit_prompts, wait_for
from cli.prompts import Prompt, read
from cli.stack.embedded import embedded_stack
from cli.stack.parts import UpOptions
from cli.terminal import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.stack.supervisor import Supervisor
    from tasks.settings import Settings

RECOVERY_SECONDS = 5.0  # short, so that the way back is seen soon
MAX_TOKENS = 40
PATIENCE_SECONDS = 60.0
DEGRADED_SECONDS = 1.0  # once a breaker is open, the honest answer takes no longer


class NotSeenError(Exception):
    """Something that the demo is to show did not happen."""


def run_demo(settings: Settings) -> int:
    """Show everything; return 0 only if each thing was really seen."""
    console = Console()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(INTERRUPTED))
    with tempfile.TemporaryDirectory(prefix="fallthrough-demo-") as folder:
        try:
            _run_on_own_stack(settings, Path(folder), console)
        except NotSeenError as error:
            console.print(f"[bold red]Not seen:[/] {error}")
            return 1
        except KeyboardInterrupt:
            console.print("stopped")
            return INTERRUPTED
    console.print("[bold green]All of it was seen.[/]  Next: ./run up")
    return 0


def _run_on_own_stack(settings: Settings, folder: Path, console: Console) -> None:
    # A stack of its own on loopback: the user's keys are for the user's.
    settings = dataclasses.replace(
        settings,
        breaker_recovery_seconds=RECOVERY_SECONDS,
        host="127.0.0.1",
        api_keys="",
        keys_file="",
    )
    options = UpOptions(0, 0, embedded_cpu=True)
    with embedded_stack(settings, options, folder, click.echo) as (supervisor, layout):
        console.print(f"[bold]Starting[/] {', '.join(supervisor.processes)} …")
        supervisor.start()
        console.print(f"watch it: {layout.api_url}")
        with Client(layout.api_url) as client:
            _Demo(settings, supervisor, client, console).run()
        console.print("\n[bold]Stopping[/] everything …")


class _Demo:
    def __init__(
        self, settings: Settings, supervisor: Supervisor, client: Client, console: Console
    ) -> None:
        servers = (name for name, tier in settings.model_tiers.items() if tier.url)
        self._first_tier = next(servers, "cpu")
        self._message = settings.degraded_message
        self._supervisor, self._client, self._console = supervisor, client, console
        self._prompts = read(str(files("cli") / "demo_prompts.jsonl"))

    def run(self) -> None:
        answers = self._answers()
        if self._first_tier != "cpu" or "model" not in self._supervisor.processes:
            self._console.print(
                "\nYour own model servers answered. Stopping them is not the demo's to do, so the "
                "outage is not shown: run it without FALLTHROUGH_GPU_URL and FALLTHROUGH_CPU_URL."
            )
            return
        self._outage(answers)
        self._recovery()

    def _answers(self) -> list[dict[str, Any]]:
        self._heading(f"{len(self._prompts)} prompts through the chain")
        jobs = self._ask(self._prompts)
        self._expect(
            all(job["tier_used"] == self._first_tier and job["text"].strip() for job in jobs),
            f"every prompt answered by a real model at the {self._first_tier} tier",
        )
        return jobs

    def _outage(self, answers: Sequence[dict[str, Any]]) -> None:
        self._heading("The model server is stopped; the same prompts again")
        self._supervisor.stop_part("model")
        jobs = self._ask(self._prompts)
        self._expect(
            all(job["tier_used"] == "cache" for job in jobs)
            and [job["text"] for job in jobs] == [job["text"] for job in answers],
            "the same answers, from the cache",
        )
        self._expect(self._breaker() == "open", "the breaker of the CPU tier is open")
        self._heading("A prompt that nobody has answered before")
        job = self._ask([Prompt("new", {"prompt": "Name a city in Japan.", "max_tokens": 8})])[0]
        seconds = (milliseconds(job) or 0) / 1000
        self._expect(
            job["tier_used"] == "degraded"
            and job["text"] == self._message
            and seconds < DEGRADED_SECONDS,
            f"an honest degraded answer, within {DEGRADED_SECONDS:g} s",
        )

    def _recovery(self) -> None:
        self._heading("The model server is started again")
        self._supervisor.start_part("model")
        deadline = time.monotonic() + PATIENCE_SECONDS
        for number in itertools.count(1):
            wait = self._client.breakers()["ollama_cpu"]["retry_after_seconds"]
            time.sleep(min(wait, RECOVERY_SECONDS))
            prompt = f"Count to {number}."
            jobs = self._client.submit([{"prompt": prompt, "max_tokens": MAX_TOKENS}])
            job = wait_for(self._client, [jobs[0]["id"]], Console(quiet=True))[jobs[0]["id"]]
            self._show(f"probe {number}", job)
            if self._breaker() == "closed" or time.monotonic() > deadline:
                break
        self._expect(
            self._breaker() == "closed" and job["tier_used"] == "cpu",
            "the breaker is closed, and the model answers again",
        )

    def _ask(self, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        jobs = list(submit_prompts(self._client, prompts, {"max_tokens": MAX_TOKENS}))
        labels = {job["id"]: prompt.label for job, prompt in zip(jobs, prompts, strict=True)}
        finished = wait_for(
            self._client,
            list(labels),
            self._console,
            lambda job: self._show(labels[job["id"]], job),
        )
        return [finished[job["id"]] for job in jobs]

    def _show(self, label: str, job: dict[str, Any]) -> None:
        text = shown(" ".join((job["text"] or f"[{job['status']}]").split()))
        head = f"  {job['tier_used'] or '-':8} {milliseconds(job):6} ms  {label:9} "
        width = max(self._console.width - len(head) - 1, 20)
        excerpt = text if len(text) <= width else text[: width - 1] + "…"
        self._console.print(head + excerpt, markup=False, highlight=False, soft_wrap=True)

    def _breaker(self) -> str:
        return str(self._client.breakers()["ollama_cpu"]["state"])

    def _heading(self, text: str) -> None:
        self._console.print(f"\n[bold]{text}[/]")

    def _expect(self, condition: bool, claim: str) -> None:  # noqa: FBT001 - as assert has it
        if not condition:
            raise NotSeenError(claim)
        self._console.print(f"  [green]✓[/] {claim}")
