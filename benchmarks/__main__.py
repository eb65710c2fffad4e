"""`./run bench`, which lays the tests' servers on the path."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from benchmarks.runner import run

NOT_TRIED = 2


def main() -> int:
    """Run the measurements; return the exit status."""
    if find_spec("harness") is None:
        sys.stderr.write("benchmarks: the tests' servers are not on the path: use ./run bench\n")
        return NOT_TRIED
    from benchmarks.catalogue import BENCHMARKS  # noqa: PLC0415 - needs those servers

    return run(BENCHMARKS, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
