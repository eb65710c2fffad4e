"""The entry module of `celery -A tasks …`: reads the environment, as every entry does."""

import os
import sys
from importlib.util import find_spec

from tasks.app import create_app
from tasks.errors import SettingsError
from tasks.settings import Settings

# `celery -A tasks flower` gets the project's settings wherever it is started.
flower_config = find_spec("flowerconfig")
if flower_config and flower_config.origin:
    os.environ.setdefault("FLOWER_CONF", flower_config.origin)

try:
    app = create_app(Settings.from_env(os.environ))
except SettingsError as error:
    sys.stderr.write(f"celery: {error}\n")
    sys.exit(2)
