"""Records of a list that fit what somebody looks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tasks.store.connection import Connection, ReadHashes

LOOK = 500  # records that one run of the script looks at: about a millisecond of the store's
MOST_LOOKED = 10_000  # that one request looks at


class Search(NamedTuple):
    """What is looked for. text: a part of the id, or of a value of the metadata; "": any.

    tests: names of fields, of which the first that a record has is to be the value.
    """

    text: str = ""
    tests: tuple[tuple[str, str], ...] = ()


class Found(NamedTuple):
    """Hashes of records, and the id after which to go on looking; None: that was all."""

    records: list[dict[bytes, bytes]]
    after: str | None


async def find(  # noqa: PLR0913, PLR0917 - a list, what is looked for in it, and where
    connection: Connection,
    index: str,
    kind: str,
    search: Search,
    limit: int,
    after: str | None,
    read: ReadHashes | None = None,
) -> Found:
    """Return up to limit of the records that fit, newest first; of very many perhaps fewer.

    kind: how the keys of the records begin. read: what reads them; None: whole. Raises
    NoSuchCursor as Connection.page() does.
    """
    start = 0 if after is None else await connection.past(index, after)
    ids: list[str] = []
    place, ended = start, False
    while not ended and len(ids) < limit and place - start < MOST_LOOKED:
        tests = [item for test in search.tests for item in test]
        looked, end, last, found = await connection.run(
            "find_records",
            [index],
            *(index, kind, place, LOOK, limit - len(ids), search.text, *tests),
        )
        ids += [name.decode() for name in found]
        place, ended, after = place + int(looked), bool(end), last.decode() or after
    hashes = await (read or connection.hashes)([kind + name for name in ids])
    return Found([fields for fields in hashes if fields], None if ended else after)
