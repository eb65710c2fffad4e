"""Options that several commands share."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from cli.output import check
from cli.prompts import InputError, Shape
from cli.rows import STDIN

if TYPE_CHECKING:
    from collections.abc import Callable


STDIN_DESCRIPTOR = 0
STDOUT = Path("/dev/stdout")


class Finite(click.FloatRange):
    """A number that JSON can say."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not finite", param, ctx)
        return number


def names(_: click.Context, __: click.Parameter, value: str | None) -> list[str] | None:
    """Read names parted by commas; which there are is the server's to say."""
    return None if value is None else [name.strip() for name in value.split(",")]


def files_here(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Have a shell complete the name of a file."""
    return [CompletionItem(incomplete, type="file")]


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
at_url = click.option(
    "--url", help="The API's address [default: FALLTHROUGH_API_URL, or http://127.0.0.1:8000]."
)


def _or_stdout(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    """Read "-" as what it is for an input: a standard stream, and no file of this name."""
    return STDOUT if value == Path(STDIN) else value


to_file = click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_or_stdout,
    help="Results, JSONL; - is standard output.",
)


shaping = (
    click.option("--column", default="", help="The column, or field, that is the prompt."),
    click.option(
        "--prompt",
        "template",
        default="",
        help="The prompt as a text with columns in braces: 'Sum up: {text}'.",
    ),
    click.option("--system", default="", help="A system message for those that have none."),
    click.option("--model", help="Model to ask for."),
    click.option("--max-tokens", type=click.IntRange(1)),
    click.option("--temperature", type=Finite(0, 2)),
)


def shaped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options by which rows become requests."""
    for option in reversed(shaping):
        command = option(command)
    return command


def shape_of(options: dict[str, Any], **further: Any) -> Shape:
    """Take those options out of a command's; return what they say. further: default fields."""
    fields = {name: options.pop(name) for name in ("model", "max_tokens", "temperature")} | further
    defaults = {name: value for name, value in fields.items() if value is not None}
    words = {name: options.pop(name) for name in ("column", "template", "system")}
    return Shape(**words, defaults=defaults)


def check_apart(source: str, output: Path) -> None:
    """Raise InputError if results would replace the prompts of a file, or of standard input."""
    try:
        prompts = os.fstat(STDIN_DESCRIPTOR) if source == STDIN else Path(source).stat()
        is_same = output.is_file() and os.path.samestat(prompts, output.stat())
    except (OSError, ValueError):  # the prompts are no file, or one that is not there
        return
    if is_same:
        message = f"--output: the results would replace the prompts in {output}: name another file"
        raise InputError(message)


def check_writable(output: Path) -> None:
    """Raise InputError if the file for results cannot be written.

    Better known before the prompts are answered than after.
    """
    try:
        check(output)
    except OSError as error:
        message = f"cannot write {output}: {error.strerror}"
        raise InputError(message) from None
