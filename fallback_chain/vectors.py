"""Embeddings: what may be asked for, and what an answer must hold. Pure."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from fallback_chain.answers import MOST_NESTING
from fallback_chain.errors import UnshowableError

MOST_INPUTS = 2048  # of one request, as at OpenAI
LARGEST_ID = 2**31  # of a token
KINDS = "a text, a list of texts, a list of tokens' ids, or a list of such lists; none is empty"
NUMBER_BYTES = 4  # base64 is of little-endian float32

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


class InputFault(NamedTuple):
    """What is wrong with the input of a request. place: in it, as "[3]", or ""."""

    place: str
    what: str


def fault_of(given: Any) -> InputFault | None:
    """Return what is wrong with the input of a request, any JSON; None: nothing."""
    if not isinstance(given, list):
        return None if _is_text(given) else InputFault("", f"must be {KINDS}")
    kind = next((kind for kind in (_is_text, _is_id, _are_ids) if given and kind(given[0])), None)
    if kind is None:
        return InputFault("[0]" if given else "", f"must be {KINDS}")
    if len(given) > MOST_INPUTS and kind is not _is_id:
        return InputFault("", f"may hold {MOST_INPUTS} inputs; there are {len(given)}")
    wrong = next((i for i, each in enumerate(given) if not kind(each)), None)
    return None if wrong is None else InputFault(f"[{wrong}]", f"must be {KINDS}")


def count_of(given: Any) -> int:
    """Return how many inputs there are in what has no fault."""
    one = not isinstance(given, list) or not given or _is_id(given[0])
    return 1 if one else len(given)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_id(value: Any) -> bool:
    whole = type(value) is int or (type(value) is float and value.is_integer())  # true is neither
    return whole and 0 <= value < LARGEST_ID


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(map(_is_id, value))


class Vectors(NamedTuple):
    """What an answer says of itself, beside its vectors."""

    model: str | None
    usage: Any


class _Entry(msgspec.Struct):
    embedding: msgspec.Raw
    index: int | None = None


class _List(msgspec.Struct):
    data: list[_Entry]
    model: Any = None
    usage: Any = None
    error: Any = None


_list = msgspec.json.Decoder(_List).decode
_vector = msgspec.json.Decoder(list[float] | str).decode


def read_vectors(content: bytes, inputs: int) -> Vectors:
    """Read the answer to so many inputs: each has its vector; raises UnshowableError.

    One vector is decoded at a time: of thousands the numbers would take many times their bytes.
    """
    try:
        if not content.isascii():
            content.decode()
        listed = _list(content)
        good = not listed.error and _are_of(listed.data, inputs)
        good = good and all(_is_vector(_vector(entry.embedding)) for entry in listed.data)
    except (ValueError, RecursionError) as error:
        raise UnshowableError from error
    # Who shows it may stand deeper in his stack.
    brackets = content.count(b"{") + content.count(b"[") - 2 * inputs
    if not good or brackets > MOST_NESTING:
        raise UnshowableError
    return Vectors(listed.model if isinstance(listed.model, str) else None, listed.usage)


def _are_of(entries: list[_Entry], inputs: int) -> bool:
    """Whether each input has one entry; one that does not say whose it is stands in its place."""
    indices = {i if entry.index is None else entry.index for i, entry in enumerate(entries)}
    return len(entries) == inputs and indices == set(range(inputs))


def _is_vector(given: list[float] | str) -> bool:
    if isinstance(given, list):
        return given != []
    size = len(given) // 4 * 3 - given.count("=")
    whole = len(given) % 4 == 0 and size % NUMBER_BYTES == 0
    return whole and _BASE64.fullmatch(given) is not None
