"""How a create that is sent again is known for what it is."""

from __future__ import annotations

from typing import NamedTuple

CLAIM_SECONDS = 15 * 60  # how long a create that is sent again finds what the first one made


class IdempotencyKey(NamedTuple):
    """A name that a create goes by, and a digest (32 characters) of what was sent with it.

    lookup: whether the create asks what an earlier one with this key made; one that does not only
    leaves its own behind, for a later one that does.
    """

    name: str
    digest: str
    lookup: bool

    def noted(self) -> IdempotencyKey:
        """Return the key of a create that is to be made anew, whatever an earlier one made."""
        return self._replace(lookup=False)
