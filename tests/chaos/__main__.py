"""`./run chaos`: faults on real processes; and the table of what came of them."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from chaos.plan import Plan
from chaos.report import RESULTS, commits_since, read, table
from chaos.run import perform, say, until_it_ends


def main() -> int:
    """Run faults, or show results; return the exit status: 1 when a promise was broken."""
    arguments = _parser().parse_args()
    if arguments.since is not None:
        since = commits_since(arguments.since) if arguments.since else None
        sys.stdout.write(table(read(arguments.results, since)) + "\n")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="fallthrough-chaos-"))
    plan = Plan(
        seed=arguments.seed,
        broker=arguments.broker,
        seconds=arguments.minutes * 60,
        names=arguments.fault,
        without=arguments.without,
        durable=arguments.durable,
    )
    result = until_it_ends(perform(plan, folder))
    result.append_to(arguments.results)
    sys.stdout.write(table([result]) + "\n")
    for sentence in (*result.left_out, *result.problems):
        say(sentence)
    if result.problems:
        say(f"the logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./run chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides the sequence of faults")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--broker", choices=("valkey", "rabbitmq"), default="valkey")
    parser.add_argument("--durable", action="store_true", help="with FALLTHROUGH_DURABLE=always")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        help="part of a fault's name: only those",
    )
    parser.add_argument(
        "--without", action="append", default=[], help="part of a fault's name: not those"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file to append to")
    parser.add_argument(
        "--since", help="run nothing: show all results since this commit; empty: all there are"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
