"""What is counted of files, compared with the files that are there.

The scripts count each file once, and give it back once (lua/_files.lua). But an older release's
processes count nothing: what they left is counted when a process of this one starts, and what they
keep and delete beside it is found by its sweeps, which look at some files at a time, round and
round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.store import keyspace

if TYPE_CHECKING:
    from tasks.store.connection import Connection

LOOK = 500  # files, about, that are compared at once


class FileCounts:
    """The place in its rounds of one process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cursors = {keyspace.FILE_EXPIRY: 0, keyspace.COUNTED_FILES: 0}

    async def look(self) -> None:
        """Go on with both rounds: through the files that are there, and those that are counted."""
        await self._compare("ZSCAN", keyspace.FILE_EXPIRY)
        await self._compare("HSCAN", keyspace.COUNTED_FILES)

    async def count_first(self) -> None:
        """Count all files that are there, unless a process has counted before."""
        if await self._connection.command("EXISTS", keyspace.COUNTED_FILES):
            return
        while await self._compare("ZSCAN", keyspace.FILE_EXPIRY):
            pass

    async def _compare(self, command: str, key: str) -> int:
        """Go on with the round through a key; return where the next look goes on, 0: its end."""
        cursor, rows = await self._connection.command(
            command, key, self._cursors[key], "COUNT", LOOK
        )
        # Of a hash the client makes a dict, of a zset pairs.
        names = [name.decode() for name in dict(rows)]
        if names:
            await self._connection.run(
                "count_files", [*map(keyspace.file, names), *keyspace.FILE_COUNTS], *names
            )
        self._cursors[key] = int(cursor)
        return int(cursor)
