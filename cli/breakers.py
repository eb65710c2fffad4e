"""What is said of a circuit breaker, as the API tells it."""

from __future__ import annotations

import time
from typing import Any

# What was done by hand, by the override that it left. Without one it was ended, or a reset.
BY_HAND = {"open": "opened", "disabled": "disabled"}


def state(view: dict[str, Any]) -> str:
    """Return its state, with what was done by hand."""
    if view["override"]:
        return f"{view['state']} (by hand: {view['override']})"
    if view["state"] == "closed" and 0 < view["share"] < 1:
        return f"closed, {view['share']:.0%} of calls"
    return str(view["state"])


def notes(view: dict[str, Any]) -> list[str]:
    """Return what is to be said of it beside its state."""
    told = [] if view["configured"] else ["not configured"]
    troubles = view.get("troubles") or ()
    told += [f"{each['trouble']} at {each['host']}: {each['reason']}" for each in troubles]
    if view["hold_reason"] and not any(each["trouble"] == view["hold_reason"] for each in troubles):
        told.append(view["hold_reason"])
    # Of a closed breaker single failures are its window's.
    if view["state"] != "closed" and not troubles and (failed := view.get("unanswered")):
        told.append(f"{failed['host']} does not answer ({failed['last']})")
    if changed := view["changed"]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(changed["at"]))
        what = BY_HAND.get(view["override"], "reset or set to auto")
        why = f": {changed['why']}" if changed["why"] else ""
        told.append(f"{what} by hand, {changed['by'] or 'somebody'}, {at}{why}")
    return told
