"""The entry module of `celery -A tasks …`: reads the environment, as every entry does."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

# Celery looks into the current folder first, where others may have files under our names.
HOME = Path(__file__).resolve().parents[1]
for name in ("circuit_breaker", "fallback_chain"):
    found = find_spec(name)
    if not found or not found.origin or Path(found.origin).resolve().parents[1] != HOME:
        where = found.origin if found else "nowhere"
        sys.stderr.write(f"celery: {name} is found at {where}: start it in another folder\n")
        sys.exit(2)

from tasks.app import create_app  # noqa: E402 - it needs them
from tasks.errors import SettingsError  # noqa: E402
from tasks.settings import Settings  # noqa: E402

# `celery -A tasks flower` gets the project's settings wherever it is started.
os.environ.setdefault("FLOWER_CONF", str(HOME / "flowerconfig.py"))

try:
    app = create_app(Settings.from_env(os.environ))
except SettingsError as error:
    sys.stderr.write(f"celery: {error}\n")
    sys.exit(2)
