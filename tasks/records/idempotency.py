"""How a create that is sent again is known for what it is."""

from __future__ import annotations

from typing import NamedTuple

CLAIM_SECONDS = 15 * 60  # how long a create that is sent again finds what the first one made
LEFT_SECONDS = 60  # how long a caller who left finds his job again


class IdempotencyKey(NamedTuple):
    """A name that a create goes by, and a digest (32 characters) of what was sent with it.

    lookup: whether the create asks what an earlier one with this key made; one that does not only
    leaves its own behind, for a later one that does. own: whether the caller chose the name: one
    that is made of what he sent may be another caller's as well. once: it is noted by who leaves
    without an answer, and found once.
    """

    name: str
    digest: str
    lookup: bool
    own: bool = True
    once: bool = False

    def noted(self) -> IdempotencyKey:
        """Return the key of a create that is to be made anew, whatever an earlier one made."""
        return self._replace(lookup=False)

    @property
    def kind(self) -> str:
        """What the scripts do with it: see lua/_idempotency.lua."""
        if self.once:
            return "<"
        return "?" if self.lookup else "!"
