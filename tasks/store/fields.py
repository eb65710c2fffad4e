"""A Redis hash, read field by field into what a record has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class Fields:
    """The fields of one hash. A field that is missing, or empty, is the default."""

    def __init__(self, raw: Mapping[bytes, bytes]) -> None:
        self._raw = raw

    def text(self, name: str) -> str:
        """Return a text; "" by default."""
        return self._raw.get(name.encode(), b"").decode()

    def number(self, name: str) -> int:
        """Return a whole number; 0 by default."""
        return int(self._raw.get(name.encode()) or 0)

    def seconds(self, name: str) -> float | None:
        """Return the seconds of a field in milliseconds; None by default."""
        value = self._raw.get(name.encode())
        return int(value) / 1000 if value else None

    def real(self, name: str) -> float | None:
        """Return a number; None by default."""
        value = self._raw.get(name.encode())
        return float(value) if value else None

    def raw(self, name: str) -> msgspec.Raw | None:
        """Return JSON as it is; None by default."""
        value = self._raw.get(name.encode())
        return msgspec.Raw(value) if value else None

    def json(self, name: str, default: Any = None) -> Any:
        """Return what a field holds as JSON."""
        value = self._raw.get(name.encode())
        return msgspec.json.decode(value) if value else default

    def texts(self, prefix: str) -> list[str]:
        """Return the texts of the fields whose names begin so."""
        start = prefix.encode()
        return [value.decode() for name, value in self._raw.items() if name.startswith(start)]

    def counts(self, prefix: str) -> dict[str, int]:
        """Return the counters whose names begin so, by the rest of the name."""
        start = prefix.encode()
        return {
            name.removeprefix(start).decode(): int(value)
            for name, value in self._raw.items()
            if name.startswith(start)
        }
