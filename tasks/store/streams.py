"""The logs of answers that are followed as they come: one Redis stream each; see lua/_keys.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tasks.records.streams import Entry, Log
from tasks.store import keyspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.records.streams import Addition
    from tasks.settings import Settings
    from tasks.store.connection import Connection

PAGE_BYTES = 256 * 1024  # of entries that are read at once, about
PAUSE_MS = 600_000  # that the words of an answer which still comes may be apart, and more
THERE, LOST = 1, -1  # what the script says of an addition


class Append(NamedTuple):
    """What is added to the log of a job, by whoever has its lease."""

    job_id: str
    lease_owner: str
    addition: Addition


class StreamStore:
    """Adds to logs, and reads them."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._ttl_ms = settings.stream_ttl_seconds * 1000

    async def append(self, appends: Sequence[Append]) -> list[bool | None]:
        """Add entries, each once; say of each if it is there.

        False: the log has lost what came before it; None: the job is not the asker's any more.
        """
        answers = await self._connection.run(
            "append_streams",
            [
                keyspace.STREAMS,
                *keyspace.jobs(each.job_id for each in appends),
                *(keyspace.stream(each.job_id) for each in appends),
            ],
            self._ttl_ms + PAUSE_MS,
            *(item for each in appends for item in _row(each)),
        )
        said = {THERE: True, LOST: False}
        return [said.get(int(answer)) for answer in answers]

    async def read(self, job_id: str, after: int) -> Log | None:
        """Return some entries that have chunks after so many.

        None: there is no log, as nobody wrote, or it was long ago.
        """
        found = await self._connection.run(
            "read_stream", [keyspace.stream(job_id)], job_id, after, PAGE_BYTES
        )
        if not found:
            return None
        first, *entries = map(Entry.of, found)
        return Log(first, entries)


def _row(append: Append) -> tuple[str, str, int, int, bytes]:
    before, entry = append.addition
    return append.job_id, append.lease_owner, before, entry.upto, entry.encoded()
