"""The entry module of `celery -A tasks …`: reads the environment, as every entry does."""

import os
import sys

from tasks.app import create_app
from tasks.errors import SettingsError
from tasks.settings import Settings

try:
    app = create_app(Settings.from_env(os.environ))
except SettingsError as error:
    sys.exit(str(error))
