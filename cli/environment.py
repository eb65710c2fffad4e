"""What the environment tells a command: settings, where the API is, where data lies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cli.client import ApiFailedError, Client
from cli.dotenv import read_dotenv
from cli.terminal import echo
from tasks.errors import SettingsError
from tasks.hosts import goes_direct
from tasks.setting_kinds import masked_url
from tasks.settings import PREFIX, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

API_URL = "FALLTHROUGH_API_URL"


def take_dotenv() -> None:
    """Put what the current folder's `.env` sets into the environment, and say which names.

    Raises SettingsError.
    """
    if taken := read_dotenv(Path(".env"), os.environ):
        os.environ.update(taken)
        echo(f".env: {', '.join(sorted(taken))}", err=True)


def settings() -> Settings:
    """Return the settings; raises SettingsError."""
    return Settings.from_env(os.environ)


def settings_with(options: Mapping[str, str]) -> Settings:
    """Return the settings, and have this process keep what options such as --gpu-url say.

    Raises SettingsError, which names the option where that is at fault.
    """
    names = {option: PREFIX + option[2:].replace("-", "_").upper() for option in options}
    before = dict(os.environ)
    os.environ.update({names[option]: value for option, value in options.items()})
    try:
        return settings()
    except SettingsError as error:
        os.environ.clear()
        os.environ.update(before)
        message = str(error)
        for option, name in names.items():
            message = message.replace(f"{name}:", f"{option}:")
        raise SettingsError(message) from None
    except ValueError:  # what no environment can hold
        message = f"{', '.join(options)}: it has a NUL"
        raise SettingsError(message) from None


def client(url: str | None) -> Client:
    """Return a client of the API at url; None: where the settings say that it is.

    Raises SettingsError or ApiFailedError for either.
    """
    if not url:
        current = settings()
    else:
        try:
            current = Settings.from_env({**os.environ, API_URL: url})
        except SettingsError as error:
            raise SettingsError(str(error).replace(f"{API_URL}:", "--url:")) from None
    direct = goes_direct(urlsplit(current.api_url).hostname or "", current.no_proxy)
    options = ("--url", masked_url(url)) if url else ()
    proxy = "" if direct else current.proxy
    try:
        return Client(current.api_url, current.api_key, proxy, options)
    except ApiFailedError as error:
        message = f"{'--url' if url else API_URL}: {error}"
        raise ApiFailedError(message) from None


def options_of(data: Path) -> tuple[str, ...]:
    """Return the options by which a command finds the stack of a data folder; (): it need not."""
    return () if data == data_folder() else ("--data-dir", str(data.absolute()))


def data_folder() -> Path:
    """Return the folder for jobs, logs and keys, unless the user names another."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "fallthrough"
