"""The `.env` of the current folder: settings that the environment does not have.

The folder may be another's: what a key of the user's environment is for never comes from its file.
"""

from __future__ import annotations

import codecs
import os
import re
from typing import TYPE_CHECKING

from tasks.errors import SettingsError
from tasks.settings import PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LARGEST = 1024 * 1024  # bytes
_LINE = re.compile(rf"\s*(?:export\s+)?({PREFIX}\w*)\s*=\s*(.*)", re.DOTALL | re.ASCII)
_QUOTED = re.compile(
    r"""'(?P<single>[^']*)'\s*(?:\#.*)?|"(?P<double>(?:[^"\\]|\\.)*)"\s*(?:\#.*)?""", re.DOTALL
)
_COMMENT = re.compile(r"(?:^|\s)#.*", re.DOTALL)
_ESCAPE = re.compile(r"""\\([\\"'nrt])""")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
TIERS = f"{PREFIX}TIERS"
PROXY = f"{PREFIX}PROXY"  # whoever runs it reads what is sent over http://


def read_dotenv(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a file that the environment does not have; {}: there is no file.

    Raises SettingsError for a file that cannot be read or used. Nothing in it is expanded.
    """
    if not path.is_file():  # a folder of this name is somebody's virtual environment
        return {}
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        message = f"{path}: it cannot be read: {error.strerror}"
        raise SettingsError(message) from None
    if len(content) > LARGEST:
        message = f"{path}: it is larger than {LARGEST} bytes"
        raise SettingsError(message)
    text = os.fsdecode(content.removeprefix(codecs.BOM_UTF8))  # as an environment's bytes are read
    found: dict[str, str] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if setting := _LINE.fullmatch(line):
            found[setting[1]] = _value(setting[2].strip(), f"{path}, line {number}: {setting[1]}")
    taken = {name: value for name, value in found.items() if name not in environ}
    _keep_keys_at_home(path, taken, environ)
    return taken


def _value(text: str, where: str) -> str:
    """Return what stands behind the equals sign; where: for the error, which shows no value."""
    if "\0" in text:
        message = f"{where} has a NUL"
        raise SettingsError(message)
    if not text.startswith(("'", '"')):
        return _COMMENT.sub("", text).rstrip()
    quoted = _QUOTED.fullmatch(text)
    if not quoted:
        message = f"{where} begins with a quote, and does not end with one on the same line"
        raise SettingsError(message)
    if quoted["single"] is not None:
        return quoted["single"]
    return _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[1]), quoted["double"])


def _keep_keys_at_home(path: Path, taken: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Raise SettingsError where a key of the environment would be sent to a place of the file's."""
    known = keys_of({**taken, **environ}.get(TIERS, ""))
    passwords = [name for name in known if "@" in environ.get(name, "")]
    keys = [name for name in known.values() if environ.get(name, "").strip()]
    sent = {name: [key] for name, key in known.items() if key in keys}
    for name, secrets in {**sent, PROXY: keys + passwords}.items():
        if secrets and taken.get(name):
            message = (
                f"{path}: {name} would be sent {secrets[0]} of the environment: set both there, "
                "or both in the file"
            )
            raise SettingsError(message)


def keys_of(tiers: str) -> dict[str, str]:
    """Return the URLs to which a key is sent, and what that key is. tiers: those that are named."""
    names = {"GPU", "CPU", *(name.strip().upper() for name in tiers.split(","))}
    of_tiers = {f"{PREFIX}{name}_URL": f"{PREFIX}{name}_API_KEY" for name in sorted(names) if name}
    return {f"{PREFIX}API_URL": f"{PREFIX}API_KEY", **of_tiers}
