#!/usr/bin/env python3
"""Load one API and tell what it did: `python load_test.py --requests 1000 --concurrency 50`.

Every request is a chat completion with a prompt of its own, so that no cache answers it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from typing import Any

import aiohttp
import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.client import base_of
from tasks.errors import SettingsError
from tasks.settings import Settings

LOOK_SECONDS = 0.25
LONGEST_SECONDS = 150.0  # that a request may take
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it


class Load:
    """What was asked, and what came of it."""

    def __init__(self, url: str, api_key: str, requests: int, prompt: str, max_tokens: int) -> None:
        self.url = base_of(url)
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.left = self.requests = requests
        self.prompt, self.max_tokens = prompt, max_tokens
        self.took_ms: list[float] = []
        self.tiers: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.changes: list[str] = []
        self.seconds = 0.0
        self.interrupted = False
        self._run = os.urandom(4).hex()

    @property
    def done(self) -> int:
        """Requests that have come to an end."""
        return len(self.took_ms) + sum(self.errors.values())

    async def run(self, concurrency: int, progress: Progress) -> None:
        """Ask everything."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(LONGEST_SECONDS),
            headers=self.headers,
        ) as client:
            await self._ask(client, concurrency, progress)

    async def _ask(
        self, client: aiohttp.ClientSession, concurrency: int, progress: Progress
    ) -> None:
        bar = progress.add_task("asking", total=self.requests, said="")
        began = time.monotonic()
        watching = asyncio.create_task(self._watch(client))
        calls = [asyncio.create_task(self._calls(client)) for _ in range(concurrency)]
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C: what was seen so far is told
            while not all(call.done() for call in calls):
                await asyncio.sleep(0.1)
                rate = self.done / (time.monotonic() - began)
                tiers = "  ".join(f"{t} {n}" for t, n in self.tiers.most_common())
                progress.update(bar, completed=self.done, said=f"{rate:,.0f}/s  {tiers}")
            await asyncio.gather(*calls)
        self.seconds = time.monotonic() - began
        self.interrupted = not all(call.done() for call in calls)
        if not self.interrupted:
            await asyncio.sleep(LOOK_SECONDS)
        for task in (*calls, watching):
            task.cancel()

    async def _calls(self, client: aiohttp.ClientSession) -> None:
        while self.left > 0:
            number = self.left
            self.left -= 1
            content = f"{self.prompt} ({self._run}-{number})"
            body = {
                "messages": [{"role": "user", "content": content}],
                "max_tokens": self.max_tokens,
            }
            began = time.monotonic()
            try:
                response = await client.post(f"{self.url}/v1/chat/completions", json=body)
                await response.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                self.errors[type(error).__name__] += 1
                continue
            if response.status == 200:  # noqa: PLR2004 - HTTP's own number
                self.took_ms.append((time.monotonic() - began) * 1000)
                self.tiers[response.headers.get("x-fallthrough-tier", "?")] += 1
            else:
                self.errors[f"HTTP {response.status}"] += 1

    async def _watch(self, client: aiohttp.ClientSession) -> None:
        """Note every change of a breaker."""
        seen: dict[str, str] = {}
        began = time.monotonic()
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, KeyError, ValueError):
                reply = await client.get(f"{self.url}/circuit-breakers")
                for name, view in (await reply.json())["circuit_breakers"].items():
                    state = view["state"]
                    if seen.get(name, state) != state:
                        at = time.monotonic() - began
                        self.changes.append(f"{at:6.1f} s  {name}: {seen[name]} -> {state}")
                    seen[name] = state
            await asyncio.sleep(LOOK_SECONDS)

    def report(self) -> dict[str, Any]:
        """Return the figures."""
        ordered = sorted(self.took_ms)

        def at(share: float) -> float | None:
            index = min(int(len(ordered) * share), len(ordered) - 1)
            return round(ordered[index], 1) if ordered else None

        return {
            "requests": self.requests,
            "answered": len(ordered),
            "seconds": round(self.seconds, 2),
            "requests_per_second": round(self.done / self.seconds, 1) if self.seconds else None,
            "latency_ms": {"p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1.0)},
            "tiers": dict(self.tiers),
            "errors": dict(self.errors),
            "breaker_changes": self.changes,
        }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The API.")
@click.option(
    "--api-key", envvar="FALLTHROUGH_API_KEY", default="", help="[default: FALLTHROUGH_API_KEY]"
)
@click.option("--requests", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--concurrency", type=click.IntRange(1), default=50, show_default=True)
@click.option("--prompt", default="Say hello.", show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), default=16, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def main(  # noqa: PLR0913 - a command's options
    *,
    url: str,
    api_key: str,
    requests: int,
    concurrency: int,
    prompt: str,
    max_tokens: int,
    as_json: bool,
) -> None:
    """Ask the API for chat completions, many at once, and tell how fast each tier answered."""
    try:
        read = Settings.from_env({"FALLTHROUGH_API_URL": url, "FALLTHROUGH_API_KEY": api_key})
    except SettingsError as error:
        click.echo(f"load_test: {error}", err=True)
        sys.exit(2)
    load = Load(read.api_url, read.api_key, requests, prompt, max_tokens)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}"),
    )
    shown = Progress(*columns, console=Console(stderr=True))
    with contextlib.suppress(KeyboardInterrupt), shown as progress:
        asyncio.run(load.run(min(concurrency, requests), progress))
    found = load.report()
    if as_json:
        click.echo(json.dumps(found))
    else:
        _tell(found)
    if load.interrupted:
        sys.exit(INTERRUPTED)
    sys.exit(0 if found["answered"] == requests else 1)


def _tell(found: dict[str, Any]) -> None:
    latency = found["latency_ms"]
    click.echo(
        f"{found['answered']} of {found['requests']} answered in {found['seconds']} s: "
        f"{found['requests_per_second']} requests/s"
    )
    click.echo("latency  " + "   ".join(f"{name} {ms} ms" for name, ms in latency.items()))
    for title in ("tiers", "errors"):
        told = "   ".join(f"{name} {number}" for name, number in found[title].items())
        if told:
            click.echo(f"{title:8} {told}")
    click.echo("breakers " + ("changed:" if found["breaker_changes"] else "did not change"))
    for change in found["breaker_changes"]:
        click.echo(f"  {change}")


if __name__ == "__main__":
    main()
