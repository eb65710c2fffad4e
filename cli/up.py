"""`fallthrough up`: the embedded stack until Ctrl-C."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from cli.stack.embedded import embedded_stack
from cli.terminal import echo

if TYPE_CHECKING:
    from pathlib import Path

    from cli.stack.parts import Layout, UpOptions
    from cli.stack.supervisor import Supervisor
    from tasks.settings import Settings


def run_up(settings: Settings, options: UpOptions, data: Path, *, as_json: bool) -> int:
    """Start, tell, tend, stop; return the exit status."""

    def say(text: str) -> None:
        echo(text, err=True)

    with embedded_stack(settings, options, data, say) as (supervisor, layout):
        _stop_on_signals(supervisor)
        say(f"starting {len(layout.parts)} parts in {data} …")
        supervisor.start()
        if not supervisor.stop_requested:
            _print_layout(supervisor, layout, data, as_json=as_json)
        supervisor.run()
        say("stopping: running work is finished or handed back …")
    say("stopped")
    return 0


def _stop_on_signals(supervisor: Supervisor) -> None:
    def stop(*_: object) -> None:
        # A handler only sets a flag; asked twice, it means now.
        if supervisor.stop_requested:
            supervisor.kill()
        supervisor.stop_requested = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _print_layout(supervisor: Supervisor, layout: Layout, data: Path, *, as_json: bool) -> None:
    rows = [
        {"part": name, "url": process.part.url, "pid": process.pid, "log": str(process.log)}
        for name, process in supervisor.processes.items()
        if not process.held_down  # what only watches, and could not start
    ]
    flower_url = layout.flower_url if any(row["part"] == "flower" for row in rows) else ""
    if as_json:
        urls = {"api_url": layout.api_url, "flower_url": flower_url}
        echo(json.dumps({**urls, "parts": rows, "data_dir": str(data)}))
        return
    table = Table("part", "where", "pid", "log")
    for row in rows:
        table.add_row(str(row["part"]), str(row["url"]), str(row["pid"]), f"{row['part']}.log")
    console = Console()
    console.print(table)
    console.print(f"logs in {data / 'logs'}", soft_wrap=True)
    console.print(f"status page {layout.api_url}")
    console.print(f"API {layout.api_url}/docs   Flower {flower_url or 'off'}   stop: Ctrl-C")
    console.print(
        f'try: curl {layout.api_url}/v1/jobs -d \'{{"prompt": "Hello"}}\'', soft_wrap=True
    )
