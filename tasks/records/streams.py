"""What is kept of an answer that is followed as it comes: the entries of its log. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fallback_chain import Chunks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class _About(msgspec.Struct, omit_defaults=True):
    upto: int
    head: str = ""
    tier: str = ""
    usage: str = ""
    ends: bool = False
    run: str = ""


_about = msgspec.json.Decoder(_About)


class Entry(NamedTuple):
    """Chunks of an answer, one after the other.

    upto: the number of chunks of the answer with these. choices: of each its list of choices, as
    JSON. head, tier: see Chunks, and who speaks; of the first entry alone. usage: a further chunk,
    whole, the last one. ends: nothing comes after it. run: the same in all entries of an answer,
    and in no other's: a store that lost its last second may have a job answered anew.
    """

    upto: int
    choices: Sequence[bytes]
    head: bytes = b""
    tier: str = ""
    usage: bytes = b""
    ends: bool = False
    run: str = ""

    @property
    def first(self) -> int:
        """The number of the first of its chunks, from 0."""
        return self.upto - len(self.choices) - bool(self.usage)

    def encoded(self) -> bytes:
        """Return it as the store keeps it."""
        head, usage = self.head.decode(), self.usage.decode()
        about = _About(self.upto, head, self.tier, usage, self.ends, self.run)
        return b"\n".join((msgspec.json.encode(about), *self.choices))

    @staticmethod
    def of(content: bytes) -> Entry:
        """Return an entry as it was encoded."""
        first, *choices = content.split(b"\n")
        about = _about.decode(first)
        head, usage = about.head.encode(), about.usage.encode()
        return Entry(about.upto, choices, head, about.tier, usage, about.ends, about.run)

    def frames(self, head: bytes) -> Iterator[bytes]:
        """Return its chunks as JSON, each with what all of them have."""
        return Chunks(head, self.choices, self.usage).frames()


class Log(NamedTuple):
    """What the log of a job has after some of its chunks. first: its first entry."""

    first: Entry
    entries: Sequence[Entry]


class Addition(NamedTuple):
    """An entry for a job's log. before: the number of chunks that are there already."""

    before: int
    entry: Entry
