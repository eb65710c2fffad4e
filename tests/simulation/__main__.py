"""`./run simulate --seeds A-B`: see --help."""

from __future__ import annotations

import sys

from simulation.command import main

sys.exit(main())
