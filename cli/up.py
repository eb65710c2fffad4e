"""`fallthrough up`: the embedded stack until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import webbrowser
from typing import TYPE_CHECKING

from rich.console import Console

from cli import environment
from cli.advice import command
from cli.check import FAILED, Check, table
from cli.stack.embedded import embedded_stack
from cli.stack.running import Announcement, RunningPart
from cli.stack.supervisor import environ_with
from cli.terminal import aligned, echo
from tasks.settings import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli.check import Row
    from cli.stack.parts import Layout, UpOptions
    from cli.stack.supervisor import Supervisor
    from tasks.settings import Settings


def run_up(
    settings: Settings, options: UpOptions, data: Path, *, as_json: bool, opens: bool = False
) -> int:
    """Start, tell, tend, stop; return the exit status."""

    def say(text: str) -> None:
        echo(text, err=True)

    announcement = Announcement(data)
    user_variables = frozenset(name for name in os.environ if name.startswith(PREFIX))
    with embedded_stack(settings, user_variables, options, data, say) as (supervisor, layout):
        _stop_on_signals(supervisor)
        say("the chain, in the order in which a request falls through:")
        for link in layout.chain:
            say(f"  {link.tier:9} {link.who}")
        say(f"starting {len(layout.parts)} parts in {data} …")
        announcement.withdraw()  # a stack that was killed may have left its own
        supervisor.start()
        if not supervisor.stop_requested:
            announcement.tell(layout.api_url, _parts(supervisor))
            _print_layout(supervisor, layout, data, as_json=as_json)
            if opens and not webbrowser.open(layout.api_url):
                say(f"there is no browser to open: see {layout.api_url}")
        with Check(_settings_of_worker(layout)) as check:
            check.when_done(lambda rows: _tell(rows, data, say))
            supervisor.run(lambda: announcement.tell(layout.api_url, _parts(supervisor)))
        announcement.withdraw()
        say("stopping: running work is finished or handed back …")
    say("stopped")
    return 0


def _settings_of_worker(layout: Layout) -> dict[str, str]:
    worker = next(part for part in layout.parts if part.name == "worker-interactive")
    return environ_with(worker.environ)


def _tell(rows: list[Row], data: Path, say: Callable[[str], None]) -> None:
    """Say what is not well; the stack runs all the same, for what is."""
    failed = [row for row in rows if row["state"] == FAILED]
    if failed:
        again = command("doctor", *environment.options_of(data))
        say(f"not all is well (`{again}` asks again):")
        say(table(failed))
    elif rows:
        say("checked: every tier answers")


def _stop_on_signals(supervisor: Supervisor) -> None:
    def stop(*_: object) -> None:
        # A handler only sets a flag; asked twice, it means now.
        if supervisor.stop_requested:
            supervisor.kill()
        supervisor.stop_requested = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _parts(supervisor: Supervisor) -> list[RunningPart]:
    return [
        RunningPart(name, process.part.url, process.pid, str(process.log))
        for name, process in supervisor.processes.items()
        if not process.held_down  # what only watches, and could not start
    ]


def _print_layout(supervisor: Supervisor, layout: Layout, data: Path, *, as_json: bool) -> None:
    rows = [part._asdict() for part in _parts(supervisor)]
    flower_url = layout.flower_url if any(row["part"] == "flower" for row in rows) else ""
    if as_json:
        urls = {"api_url": layout.api_url, "flower_url": flower_url}
        chain = [link._asdict() for link in layout.chain]
        echo(json.dumps({**urls, "chain": chain, "parts": rows, "data_dir": str(data)}))
        return
    head = ("part", "where", "pid", "log")
    told = [[str(row[name]) for name in ("part", "url", "pid")] for row in rows]
    echo("\n".join(aligned([head, *([*row, f"{row[0]}.log"] for row in told)])))
    console = Console()
    console.print(f"logs in {data / 'logs'}", soft_wrap=True)
    console.print(f"web page {layout.api_url}")
    console.print(f"API {layout.api_url}/docs   Flower {flower_url or 'off'}   stop: Ctrl-C")
    console.print(
        f'try: curl {layout.api_url}/v1/jobs -d \'{{"prompt": "Hello"}}\'', soft_wrap=True
    )
