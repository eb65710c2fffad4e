"""JSON schemas that callers send: compiled once, bounded in every way, and never fetched.

A schema is a program of a stranger's. The engine cannot be interrupted, it holds the interpreter's
lock, and the recursion of a schema into a deep value ends in the end of the process. So before one
is compiled it is measured, and before a value is validated the two are weighed together. Whatever
is too much, is no schema, or refers to anything outside itself is not checked: None, which is not
"valid".
"""

from __future__ import annotations

import functools
import re
from math import prod
from typing import Any, NamedTuple
from urllib.parse import unquote

import jsonschema_rs
import msgspec

from fallback_chain.answers import is_deeper

KEPT = 64  # compiled schemas
MOST_SCHEMA = 256 * 1024  # characters of one
MOST_NODES = 10_000  # subschemas, each as often as references repeat it
MOST_NESTING = 200  # subschemas inside one another
MOST_DEPTH = 100  # objects and lists of a value inside one another
MOST_WORK = 5e7  # nodes times characters of the answer: a few seconds at the very worst
# Every pattern is matched in time linear in the text; one that would need more does not compile.
LARGEST_PATTERN = 1 << 20  # bytes of one that is compiled
PATTERNS = jsonschema_rs.RegexOptions(size_limit=LARGEST_PATTERN, dfa_size_limit=LARGEST_PATTERN)

# Where these stand, a reference points to something that is not looked for here.
_UNFOLLOWED = frozenset({"$dynamicRef", "$recursiveRef"})
_REBASING = frozenset({"$id", "$schema"})  # below the root
# Each of these looks once more at all that stands beside it, and so at those inside it.
_UNEVALUATED = frozenset({"unevaluatedProperties", "unevaluatedItems"})
_COUNTED = re.compile(r"\{(\d+)(?:,(\d*))?\}")


def is_valid(schema: str, value: Any, length: int) -> bool | None:
    """Say whether a value fits a schema; None: that cannot be said.

    schema: JSON. value: decoded JSON that was `length` characters long.
    """
    compiled = _compiled(schema) if len(schema) <= MOST_SCHEMA else None
    if compiled is None or compiled.weight * length > MOST_WORK or is_deeper(value, MOST_DEPTH):
        return None
    try:
        return compiled.validator.is_valid(value)
    except BaseException as error:
        if not _of_the_engine(error):
            raise
        return None


class _Compiled(NamedTuple):
    validator: jsonschema_rs.Validator
    weight: int  # of one character of a value


@functools.lru_cache(maxsize=KEPT)
def _compiled(schema: str) -> _Compiled | None:
    try:
        weight = _Measure(msgspec.json.decode(schema)).weight
        if weight > MOST_WORK:  # compiling it would take long as well
            return None
        validator = jsonschema_rs.validator_for(
            schema, validate_formats=False, retriever=_refuse, pattern_options=PATTERNS
        )
    except BaseException as error:
        if not _of_the_engine(error):
            raise
        return None
    return _Compiled(validator, weight)


def _refuse(uri: str) -> Any:
    raise LookupError(uri)


def _of_the_engine(error: BaseException) -> bool:
    """Say whether it is an engine's error: the panic of a Rust extension is no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


class _Measure:
    """How much work a schema is. Raises ValueError or LookupError for one that is too much.

    Every subschema counts as often as references repeat it. A reference to what it stands in is a
    recursion, and counts only as one: the engine remembers what it found of an object or array.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._nodes = 1
        self._recursions = 0
        self._looks = 1
        self._path: set[int] = set()
        if isinstance(root, dict) and "draft-04" in str(root.get("$schema")):
            raise ValueError  # its ids are spelled otherwise
        self._visit(root)

    @property
    def weight(self) -> int:
        """Return the work for one character of a value."""
        return self._nodes * max(self._recursions, 1) * self._looks

    def _add(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            raise ValueError  # too many subschemas

    def _visit(self, node: Any) -> None:
        if isinstance(node, list):
            self._add(len(node) // 8)
            for value in node:
                self._visit(value)
        elif isinstance(node, dict):
            if id(node) in self._path:
                self._recursions += 1
                return
            self._add(1)
            self._path.add(id(node))
            if len(self._path) > MOST_NESTING:
                raise ValueError  # too many subschemas inside one another
            for key, value in node.items():
                self._keyword(node, key, value)
            self._path.discard(id(node))

    def _keyword(self, node: dict[str, Any], key: str, value: Any) -> None:
        if key in _UNEVALUATED:
            self._looks *= 4
        if isinstance(value, str):
            if key == "$ref":
                self._visit(self._target(value))
            elif key == "pattern":
                self._add(_states(value))
            elif key in _UNFOLLOWED or (key in _REBASING and node is not self._root):
                raise ValueError(key)
            return
        if key == "patternProperties" and isinstance(value, dict):
            self._add(sum(map(_states, value)))
        if node is not self._root or key not in {"$defs", "definitions"}:
            self._visit(value)

    def _target(self, reference: str) -> Any:
        if reference == "#":
            return self._root
        if not reference.startswith("#/"):
            raise ValueError  # refers to something else
        node = self._root
        for token in unquote(reference[2:]).split("/"):
            name = token.replace("~1", "/").replace("~0", "~")
            node = node[int(name)] if isinstance(node, list) else node[name]
        return node


def _states(pattern: str) -> int:
    """Return about how many states a pattern has; repetitions inside one another multiply."""
    counts = [int(most or least) for least, most in _COUNTED.findall(pattern)]
    return (len(pattern) + (prod(counts) if "){" in pattern else sum(counts))) // 4
