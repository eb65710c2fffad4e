"""A value as JSON that a server takes: Python's own writes, and reads, what is none."""

from __future__ import annotations

import json
from typing import Any

from tasks.json_faults import fault_of_json


class NoJsonError(Exception):
    """A value cannot be JSON; the message says what of it."""


def encoded(value: Any) -> bytes:
    """Return a value as JSON in UTF-8; raises NoJsonError."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        message = "it has half a character (a surrogate), or a byte that is no UTF-8"
    except RecursionError:
        message = "it is nested too deep"
    except ValueError:
        message = "it has a number that is not finite"
    raise NoJsonError(message)


def decoded(text: str) -> Any:
    """Return what a JSON text stands for; raises NoJsonError, of what could not be sent too."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        message = fault_of_json(text.encode(), error)
        if "\n" not in text:  # then it is a line of a file, with a number of its own
            message = message.removeprefix("line 1, ")
    except RecursionError:
        message = "it is nested too deep"
    except ValueError:  # Python reads no more than 4300
        message = "it has a number of too many digits"
    else:
        encoded(value)
        return value
    raise NoJsonError(message)
