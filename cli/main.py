"""The `fallthrough` command."""

from __future__ import annotations

import errno
import sys
from typing import Any

import click

from cli import environment
from cli.check import CheckFailedError
from cli.client import ApiFailedError
from cli.commands.batches import batches
from cli.commands.breakers import breakers
from cli.commands.doctor import doctor, env
from cli.commands.jobs import cancel, status, submit
from cli.commands.keys import keys
from cli.commands.lists import files, jobs
from cli.commands.settings import config
from cli.commands.stack import demo, up
from cli.interrupt import INTERRUPTED
from cli.output import OutputError
from cli.prompts import InputError
from cli.stack.embedded import FolderError
from cli.stack.ports import PortTakenError
from cli.stack.supervisor import StartError
from cli.terminal import UntoldError, drop_unwritten, echo, is_terminal, speak_any_locale
from tasks.errors import SettingsError

LONGEST_LINE = 600  # characters
NOT_TRIED = 2  # exit status: it could not be tried
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
FAILURES = (
    *(ApiFailedError, InputError, SettingsError, PortTakenError, FolderError),
    *(CheckFailedError, OutputError, UntoldError),
)


def _complain(message: str) -> None:
    """Print one line, whatever a user, a file's name or a server put into the message."""
    line = " ".join(message.splitlines())
    echo(f"fallthrough: {line[:LONGEST_LINE]}{'…' * (len(line) > LONGEST_LINE)}", err=True)


class Fallthrough(click.Group):
    """Reads `.env`, and turns what is the user's to mend into one line and exit status 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line; where nothing could be told, nothing is done."""
        if sys.stdout is None:
            _complain("standard output is closed: say where it goes, if only to /dev/null")
            sys.exit(NOT_TRIED)
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.errno not in NO_ROOM or error.filename is not None:
                raise
            _complain(f"standard output cannot be written: {error.strerror}")
            sys.exit(NOT_TRIED)
        finally:
            drop_unwritten()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        speak_any_locale()
        try:
            environment.take_dotenv()
            return super().invoke(ctx)
        except FAILURES as error:
            _complain(str(error))
        except StartError as error:
            _complain(f"the stack did not start: {error}")
        except (KeyboardInterrupt, click.Abort) as interrupt:
            if is_terminal(sys.stderr):
                echo("", err=True)  # below ^C
            _complain(str(interrupt) or "interrupted")
            return ctx.exit(INTERRUPTED)
        return ctx.exit(NOT_TRIED)


@click.group(cls=Fallthrough, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fallthrough")
def main() -> None:
    """See every prompt through: GPU, then CPU, then cache, then an honest degraded answer.

    \b
    fallthrough up                        start everything on this machine
    fallthrough submit "Why is it blue?"  ask one thing
    fallthrough submit prompts.jsonl --output results.jsonl
    fallthrough batch prompts.jsonl       a whole file, up to any number of lines
    fallthrough breakers                  see which tiers are in service
    fallthrough doctor                    what is wrong, and what to do

    Completion, in bash: eval "$(_FALLTHROUGH_COMPLETE=bash_source fallthrough)"; zsh_source and
    fish_source are for others.
    """  # noqa: D301 - \b is click's


for command in (
    *(up, demo, submit, status, cancel, jobs, batches, files),
    *(breakers, doctor, env, keys, config),
):
    main.add_command(command)


if __name__ == "__main__":
    main()
