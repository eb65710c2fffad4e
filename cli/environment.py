"""What the environment tells a command: settings, where the API is, where data lies."""

from __future__ import annotations

import os
from pathlib import Path

from cli.client import Client
from tasks.settings import Settings


def settings() -> Settings:
    """Return the settings; raises SettingsError."""
    return Settings.from_env(os.environ)


def client(url: str | None) -> Client:
    """Return a client of the API at url; None: where the settings say that it is."""
    current = settings()
    return Client(url or current.api_url, current.api_key)


def data_folder() -> Path:
    """Return the folder for jobs, logs and keys, unless the user names another."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "fallthrough"
