"""The tiers that a caller may name: which there are, and how the OpenAPI document says it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from api.errors import bad
from tasks.errors import SettingsError
from tasks.records.policies import TierNames, tier_names
from tasks.tiers.build import tier_configs

if TYPE_CHECKING:
    from collections.abc import Collection

    from tasks.settings import Settings

# Which names there are depends on the settings: the document has schemas of their own for them.
NAME, NAMES = "TierName", "TierNames"
NAME_SCHEMA, NAMES_SCHEMA = ({"$ref": f"#/components/schemas/{name}"} for name in (NAME, NAMES))
TierName = Annotated[str, Meta(extra_json_schema=NAME_SCHEMA)]
Tiers = Annotated[list[TierName], Meta(min_length=1)]
TierText = Annotated[str, Meta(extra_json_schema=NAMES_SCHEMA)]  # "gpu,cache"


def names_of(settings: Settings) -> TierNames:
    """Return the names of the tiers that are set up, and of the cache."""
    return (*tier_configs(settings), "cache")


def schemas(names: Collection[str]) -> dict[str, Any]:
    """Return the document's schemas of a name, and of a text of names."""
    one = f"({'|'.join(map(re.escape, names))})"
    return {
        NAME: {"enum": list(names)},
        NAMES: {"type": "string", "pattern": f"^{one}(, ?{one})*$"},
    }


def check_tiers(tiers: TierNames, names: Collection[str], param: str) -> None:
    """Raise a 400 that lists the names there are, unless each of these is one."""
    unknown = [name for name in tiers if name not in names]
    if unknown:
        there_are = ", ".join(names)
        raise bad(f"{param}: there is no tier {unknown[0]!r}; there are {there_are}", param)


def batch_tiers(settings: Settings) -> TierNames:
    """Return the tiers that may answer a batch which does not say; raise SettingsError."""
    tiers, names = tier_names(settings.batch_tiers), names_of(settings)
    unknown = [name for name in tiers if name not in names]
    if unknown:
        message = (
            f"FALLTHROUGH_BATCH_TIERS: the tier {unknown[0]} is not set up: "
            f"there are {', '.join(names)}"
        )
        raise SettingsError(message)
    return tiers
