"""The order in which work falls through: the model tiers that are set up, then the cache. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.records.policies import passes_over

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from tasks.records.policies import TierNames

CACHE = "cache"  # the last of every order

Order = tuple[str, ...]


def order_of(models: Iterable[str]) -> Order:
    """Return the order of these model tiers."""
    return (*models, CACHE)


def first_of(wanted: TierNames, order: Order) -> str:
    """Return where work begins that these tiers may answer."""
    return next(tier for tier in order if not passes_over(wanted, tier))


def next_of(order: Order, tier: str) -> str:
    """Return the tier after one of the order; the cache has none after it."""
    return order[order.index(tier) + 1]


def below(order: Order, tier: str) -> Order:
    """Return the model tiers after one of the order."""
    return order[order.index(tier) + 1 : -1]


def way_on(order: Order, tried: Collection[str]) -> str:
    """Return where work goes on that stands at a tier which is not in the order.

    That is the first tier where it was not tried yet: so it goes round at no two workers that know
    different tiers.
    """
    return next((tier for tier in order if tier not in tried), CACHE)
