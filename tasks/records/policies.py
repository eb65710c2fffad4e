"""What a caller may choose: who may answer, when the cache is asked, and what if nobody can."""

from typing import Literal

CachePolicy = Literal["fallback", "first", "off"]
ExhaustedPolicy = Literal["degraded", "wait", "fail"]
TierNames = tuple[str, ...]  # the tiers that may answer, the cache among them or not; (): all


def may_answer(tiers: TierNames, tier: str) -> bool:
    """Whether a caller who names these tiers takes an answer of this one."""
    return not tiers or tier in tiers


def passes_over(tiers: TierNames, tier: str) -> bool:
    """Whether a caller's work does not stop at a tier; at the cache, where chains end, all does."""
    return tier != "cache" and not may_answer(tiers, tier)


def tier_names(text: str) -> TierNames:
    """Return the names in a text like "gpu, cpu"; () if there is none, "" for one left out."""
    return tuple(name.strip() for name in text.split(",")) if text.strip() else ()
