"""How urgent a call is, in the words of the server that is told so. Pure.

What each understands: vLLM a number in the body, lower first, where it schedules by priority;
Dynamo and SMG a header; llm-d the name of an InferenceObjective, which its operator has made.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Urgency(Enum):
    """Whose call it is: a request that somebody waits for, or a batch's, by its priority."""

    INTERACTIVE = "interactive"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @classmethod
    def of_batch(cls, priority: str) -> Urgency:
        """Return that of a batch's lines. priority: low, normal or high."""
        return cls(priority)


class Told(NamedTuple):
    """What is sent with a call."""

    headers: Mapping[str, str]
    fields: Mapping[str, int]  # of the body


NOTHING = Told({}, {})
_RANKS = {Urgency.INTERACTIVE: 0, Urgency.HIGH: 1, Urgency.NORMAL: 2, Urgency.LOW: 3}
_SMG = {Urgency.INTERACTIVE: "interactive", Urgency.HIGH: "default"}
_LLM_D = {Urgency.INTERACTIVE: "interactive"}


def told(server: str, urgency: Urgency) -> Told:
    """Return what a server is told. server: vllm, dynamo, smg, llm-d, or off: nothing."""
    rank = _RANKS[urgency]
    match server:
        case "vllm":
            return Told({}, {"priority": rank})
        case "dynamo":  # the higher, the sooner
            return Told({"x-dynamo-request-priority": str(len(_RANKS) - 1 - rank)}, {})
        case "smg":
            return Told({"x-smg-priority": _SMG.get(urgency, "bulk")}, {})
        case "llm-d":
            name = _LLM_D.get(urgency, f"batch-{urgency.value}")
            return Told({"x-gateway-inference-objective": name}, {})
    return NOTHING
