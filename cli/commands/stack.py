"""`fallthrough up`, `demo`: the stack on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from cli import environment
from cli.commands.options import as_json
from cli.stack.parts import UpOptions
from cli.up import run_up
from tasks.errors import SettingsError
from tasks.keys import check_exposure

PORT = click.IntRange(0, 65_535)


@click.command()
@click.option("--port", type=PORT, help="Port of the API; 0 picks a free one  [default: 8000]")
@click.option("--host", help="Where the API listens; beyond loopback it needs API keys.")
@click.option("--gpu-url", help="The GPU server, or several, parted by commas.")
@click.option("--cpu-url", help="The CPU server.")
@click.option("--open", "opens", is_flag=True, help="Open the web page in a browser.")
@click.option(
    "--flower-port", type=PORT, default=5555, show_default=True, help="Port of Flower; 0: free."
)
@click.option(
    "--workers",
    type=click.IntRange(0, 64),
    default=1,
    show_default=True,
    help="Worker processes for batch work, beside the one for interactive requests.",
)
@click.option(
    "--cpu",
    type=click.Choice(["embedded"]),
    help="Have the small model answer where a GPU server cannot; without a GPU server it does.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where jobs and logs are kept  [default: ~/.local/share/fallthrough]",
)
@as_json
def up(  # noqa: PLR0913 - a command's options
    *,
    port: int | None,
    flower_port: int,
    workers: int,
    cpu: str | None,
    data_dir: Path | None,
    host: str | None,
    gpu_url: str | None,
    cpu_url: str | None,
    opens: bool,
    as_json: bool,
) -> None:
    """Start the whole stack on this machine, and watch over it until Ctrl-C.

    Valkey, workers, the API and Flower; and a small model as CPU tier, as long as no server of
    yours is named. A part of your own takes the place of the embedded one: set
    FALLTHROUGH_REDIS_URL, FALLTHROUGH_CPU_URL; and FALLTHROUGH_GPU_URL for the server that all this
    is for. `fallthrough config` lists them.
    """
    told = {"--host": host, "--gpu-url": gpu_url, "--cpu-url": cpu_url}
    settings = environment.settings_with({k: v for k, v in told.items() if v is not None})
    check_exposure(settings)
    if cpu and "FALLTHROUGH_CPU_URL" in os.environ:
        message = "FALLTHROUGH_CPU_URL: it is set, and so is --cpu embedded: take one of them away"
        raise SettingsError(message)
    if cpu and "cpu" not in settings.model_tiers:
        message = "FALLTHROUGH_TIERS: it does not name cpu, where --cpu embedded would answer"
        raise SettingsError(message)
    options = UpOptions(
        port=settings.port if port is None else port,
        flower_port=flower_port,
        workers=workers,
        embedded_cpu=cpu is not None,
        flower_prefix=os.environ.get("FLOWER_URL_PREFIX", ""),
    )
    sys.exit(
        run_up(
            settings, options, data_dir or environment.data_folder(), as_json=as_json, opens=opens
        )
    )


@click.command()
def demo() -> None:
    """Show all of it in seconds: a batch falls from GPU to CPU to cache, and comes back."""
    from cli.demo import run_demo  # noqa: PLC0415 - only the demo needs it

    sys.exit(run_demo())
