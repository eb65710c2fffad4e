"""Measurements, side by side in one run: `./run bench [NAME …]`."""

import sys
from pathlib import Path

# The servers and processes that the tests start serve here as well.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
