"""Commands that a user is advised to give next, as a shell takes them."""

from __future__ import annotations

import shlex


def command(*words: str) -> str:
    """Return a command of ours. words: those behind `fallthrough`, options too."""
    return shlex.join(("fallthrough", *words))
