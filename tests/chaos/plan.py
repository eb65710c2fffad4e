"""What a run is to do."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Plan:
    """What a run is to do. names, without: parts of faults' names; no names: all of them."""

    seed: int
    broker: str
    seconds: float
    names: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    most: int | None = None  # faults
    durable: bool = False  # only what is on disk is accepted

    def has(self, fault: str) -> bool:
        """Whether a fault is part of it."""
        named = not self.names or any(name in fault for name in self.names)
        return named and not any(name in fault for name in self.without)
