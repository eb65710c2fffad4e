"""The process that runs tasks: event loop, drain, leases, sweeper, health port."""

import os
import signal
import sys

# `python -m workers` looks into the current folder first: there may be a tasks.py, or a json.py.
_HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
if sys.argv[0] == "-m" and sys.path and sys.path[0] == os.getcwd() != _HOME:  # noqa: PTH109
    del sys.path[0]

# Until there is a handler that drains. The first process of a container has not even the system's:
# it would take work, and be killed with it. A check that does not come to its end is none.
if sys.argv[0] == "-m" and "workers.check" not in sys.orig_argv:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

# Another program's, by which Prometheus' client would write into its folder, or trip over it.
for _name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
    os.environ.pop(_name, None)
