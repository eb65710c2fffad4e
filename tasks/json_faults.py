"""What is wrong with JSON that was sent to us, in words that fit no one library. Pure.

msgspec's own words name Python's types ("Expected `float` > 0.0"), a codec's its positions. Whoever
reads an error of ours has written JSON: he is told of texts, numbers, lists and objects.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from tasks.foreign import NUL, is_wide, what_it_is

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what reading JSON raises

REQUIRED = "is required"
OUT_OF_RANGE = "is a number that is out of range"
TOO_DEEP = "it is nested too deep"

# msgspec's names of what a value may be, and of what came instead.
_KINDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_CAME = {**_KINDS, "bool": "true or false", "float": "a number with a decimal point"}
_UNITS = {
    "str": ("character", "characters"),
    "array": ("entry", "entries"),
    "object": ("field", "fields"),
}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "greater than", "<": "less than"}

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$\.?(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_TYPE = re.compile(r"Expected `(?P<kinds>[^`]+)`(?:, got `(?P<came>[^`]+)`)?")
_BOUND = re.compile(r"Expected `(?:int|float)` (?P<sign>[<>]=?) (?P<bound>\S+)")
_LENGTH = re.compile(r"Expected `(?P<kind>\w+)` of length (?P<sign>[<>]=) (?P<bound>\d+)")
_CHOICE = re.compile(r"Invalid (?:enum )?value (?P<value>.*)", re.DOTALL)

_BYTE = re.compile(r" \(byte (?P<at>\d+)\)$")
# What the standard library and msgspec say of a text that is no JSON: ours, by a part of theirs.
_BROKEN = {
    "UTF-8 BOM": "there is a byte order mark: save it as UTF-8 without one",
    "Expecting value": "a value is missing",
    "Expecting property name": "a field's name in double quotes is missing",
    "Expecting ',' delimiter": "a comma, or the end of a list or an object, is missing",
    "Expecting ':' delimiter": "a colon is missing after a field's name",
    "Illegal trailing comma": "there is a comma before the end of a list or an object",
    "Extra data": "there is more after its end",
    "Unterminated string": "a text has no closing quote",
    "Invalid control character": "a text holds a line break or a tab: write it as \\n or \\t",
    "Invalid \\escape": "a text holds a backslash before a character that takes none",
    "Invalid \\u": "a text holds a \\u without four hexadecimal digits",
    "surrogate": "a text holds half of a pair of \\u escapes",
    "escape": "a text holds a backslash before a character that takes none",
    "invalid number": "a number is not written as JSON has it",
    "out of range": "a number is out of range",
    "truncated": "a text holds half of a pair of \\u escapes",  # else Python has seen it
    "trailing comma": "there is a comma before the end of a list or an object",
    "trailing characters": "there is more after its end",
    "keys must be strings": "a field's name in double quotes is missing",
    "expected ':'": "a colon is missing after a field's name",
    "expected": "a comma, or the end of a list or an object, is missing",
    "invalid character": "there is a character that JSON does not have",
}


class Misfit(NamedTuple):
    """Where a value is not what was asked for, and how. path: "" is the whole value."""

    path: str
    what: str


def misfit_of(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> Misfit:
    """Return what msgspec found where it read that kind of Struct, in our words."""
    match = _PLACE.match(str(error))
    what, path = (match["what"], match["path"] or "") if match else ("", "")
    if named := _MISSING.match(what) or _UNKNOWN.match(what):
        unknown = named.re is _UNKNOWN
        says = "there is no such field" if unknown else REQUIRED
        return Misfit(f"{path}.{named['name']}".strip("."), says)
    if (chosen := _CHOICE.match(what)) and (choices := _choices(kind, path)):
        return Misfit(path, f"must be one of {', '.join(choices)}; not {chosen['value']}")
    of_a_key = bool(match and match["key"])
    return Misfit(path, f"{'each name ' if of_a_key else ''}{_demand(what)}")


def _choices(kind: type[msgspec.Struct], path: str) -> list[str]:
    """Return the words of which a field must be one."""
    fields = [field for field in msgspec.structs.fields(kind) if field.encode_name == path]
    return [str(word) for field in fields for word in _literals(field.type)]


def _literals(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return tuple(kind)
    return tuple(word for part in get_args(kind) for word in _literals(part))


def _demand(what: str) -> str:
    """Return what a value must be, from what msgspec says that it is not."""
    if match := _BOUND.match(what):
        return f"must be {_BOUNDS[match['sign']]} {float(match['bound']):.15g}"
    if match := _LENGTH.match(what):
        return _length(match["kind"], match["sign"], int(match["bound"]))
    if "matching regex" in what:
        return "is a text of another form"
    if match := _TYPE.match(what):
        kinds = [_KINDS.get(kind.strip(), "another value") for kind in match["kinds"].split("|")]
        came = _CAME.get(match["came"] or "")
        return f"must be {' or '.join(dict.fromkeys(kinds))}" + (f", not {came}" if came else "")
    if "out of range" in what:
        return OUT_OF_RANGE
    return "has a value that it cannot have"


def _length(kind: str, sign: str, bound: int) -> str:
    if (sign, bound) == (">=", 1):
        return "must not be empty"
    one, many = _UNITS.get(kind, ("byte", "bytes"))
    return f"must have {_BOUNDS[sign]} {bound} {one if bound == 1 else many}"


def fault_of_json(content: bytes, error: Exception) -> str:
    """Return why content is not JSON, and where; error: what its decoder raised."""
    if isinstance(error, RecursionError):
        return TOO_DEEP
    try:
        json.loads(content.decode())
    except UnicodeDecodeError as failure:
        return _what_it_is(content) or f"it is no UTF-8: see byte {failure.start + 1}"
    except json.JSONDecodeError as failure:
        place = f"line {failure.lineno}, column {failure.colno}"
        # UTF-16 without its mark is UTF-8, with NULs.
        return _what_it_is(content) if is_wide(content) else f"{place}: {_words(failure.msg)}"
    except RecursionError:
        return TOO_DEEP
    except ValueError:  # Python refuses a number of thousands of digits
        return _words("out of range")
    # What Python takes and JSON does not have: NaN, a lone surrogate, a number without bounds.
    at = _BYTE.search(str(error))
    return (f"byte {int(at['at']) + 1}: " if at else "") + _words(str(error))


def _what_it_is(content: bytes) -> str:
    # It may be a file's first line, and another one.
    return what_it_is(b"" if content.startswith(NUL) else content, content)


def _words(said: str) -> str:
    found = (ours for theirs, ours in _BROKEN.items() if theirs in said)
    return next(found, "it is not written as JSON has it")
