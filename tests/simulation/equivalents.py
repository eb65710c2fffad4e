"""Mutants that change nothing that anybody could see, each with the reason."""

from __future__ import annotations

# (file, the line as it is, as it is in the mutant) -> why nobody sees it.
EQUIVALENT: dict[tuple[str, str, str], str] = {}
