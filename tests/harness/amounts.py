"""How much there is of what could be tried without end. `./run prove` has more of it."""

from __future__ import annotations

import os

FLEET_WORKERS = int(os.environ.get("FLEET_WORKERS", "4"))  # processes, in an outage
WALKS = int(os.environ.get("WALKS", "1"))  # over tables and machines: times the usual number
BATCH_LINES = int(os.environ.get("BATCH_LINES", "12000"))  # of a batch that lives through much
