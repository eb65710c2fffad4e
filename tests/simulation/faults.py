"""What breaks, and when: a plan that a seed gives, and that shrinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulation.loop import FAULT_SECONDS
from simulation.upstream import MODES

if TYPE_CHECKING:
    import random

    from simulation.loop import Node
    from simulation.world import World

EVERYBODY = -1

STORE_MODES = ("refused", "reset", "lost", "late", "unanswered", "cut")
BROKER_MODES = ("loses", "doubles", "delays", "delays", "delays", "unconfirmed", "away", "hangs")
# Kind -> how often it is in a plan of its theme. Where few kinds break, the ledger knows more.
THEMES = {
    "everything": {
        "crash": 5,
        "pause": 2,
        "term": 2,
        "store": 4,
        "restart": 1,
        "forget": 1,
        "clock": 1,
        "broker": 4,
        "redeliver": 2,
        "storage": 1,
        "vanish": 1,
        "poison": 1,
        "model": 4,
    },
    "processes": {"crash": 3, "pause": 2, "term": 1, "poison": 1},
    "pauses": {"pause": 1},
    "drains": {"term": 3, "broker": 1},
    "messages": {"broker": 3, "redeliver": 1},
    "models": {"model": 1},
    "forgetting": {"forget": 3, "crash": 1, "disk": 1},
    "store": {"store": 5, "restart": 1, "clock": 1, "disk": 1},
}
WEIGHTS = (8, 3, 4, 3, 4, 2, 3, 3)  # of the themes
LONG_PAUSES = (5.0, 10.0, 15.0, 20.0)  # longer than a lease, most of them


@dataclass(frozen=True)
class Fault:
    """One thing that breaks. Which fields say something depends on its kind.

    at, seconds: since the beginning, and for how long. target: a place of a process, or EVERYBODY.
    steps: after how many more steps of it. share: how often it shows while it lasts.
    """

    kind: str
    at: float
    seconds: float
    target: int
    steps: int
    share: float
    mode: str

    def __str__(self) -> str:
        where = "everybody" if self.target == EVERYBODY else f"place {self.target}"
        return (
            f"{self.at:6.2f} s {self.kind} {self.mode} {where}, {self.seconds:.1f} s, "
            f"{self.steps} steps, {self.share:.0%}"
        )


def plan_of(rng: random.Random, workers: int) -> list[Fault]:
    """Return what breaks in a run: from nothing to a dozen things."""
    [theme] = rng.choices(list(THEMES), WEIGHTS)
    weights = THEMES[theme]
    number = rng.choice((0, 1, 1, 2, 2, 3, 4, 6, 9, 12) if theme == "everything" else (1, 2, 3, 5))
    kinds = rng.choices(list(weights), weights.values(), k=number)
    faults = []
    for kind in kinds:
        at = rng.random() * FAULT_SECONDS * 0.7
        lengths = LONG_PAUSES if theme == "pauses" else (0.1, 1.0, 5.0, 12.0, 30.0)
        modes = {"store": STORE_MODES, "broker": BROKER_MODES, "model": MODES}.get(kind, ("",))
        faults.append(
            Fault(
                kind=kind,
                at=at,
                seconds=min(rng.choice(lengths), FAULT_SECONDS - at),
                target=_target(rng, workers if theme == "pauses" else 0),
                steps=int(2 ** (rng.random() * 9)) - 1,
                share=rng.choice((0.02, 0.2, 0.5, 1.0)),
                mode=rng.choice(modes),
            )
        )
    return sorted(faults, key=lambda fault: fault.at)


def _target(rng: random.Random, workers: int) -> int:
    """Return whom a fault is about. workers: one of these alone, so that others take over."""
    if workers:
        return rng.randrange(workers)
    return EVERYBODY if rng.random() < 0.4 else rng.randrange(6)


class Faults:
    """The plan as it is carried out, and what those that it meets ask."""

    def __init__(self, world: World, plan: list[Fault]) -> None:
        self._world = world
        self.plan = plan
        self._lasting: dict[str, list[Fault]] = {
            kind: [] for kind in ("store", "disk", "broker", "storage", "model")
        }
        self._rng = world.rng("faults")
        # A prompt -> the steps after which a worker dies that has asked it.
        self.poison: dict[str, int] = {}
        for fault in plan:
            world.loop.outside_later(fault.at, self._begin, fault)

    def _begin(self, fault: Fault) -> None:
        self._world.note(f"fault: {fault}")
        if fault.kind in self._lasting:
            self._lasting[fault.kind].append(fault)
            self._world.loop.outside_later(fault.seconds, self._end, fault)
        else:
            getattr(self, f"_{fault.kind}")(fault)

    def _end(self, fault: Fault) -> None:
        self._lasting[fault.kind].remove(fault)
        self._world.note(f"over: {fault.kind} {fault.mode}")
        self._world.broker.deliver()

    # What is done to processes

    def _crash(self, fault: Fault) -> None:
        for process in self._world.processes_at(fault.target):
            process.node.dies_after = process.node.steps + 1 + fault.steps

    def _pause(self, fault: Fault) -> None:
        for process in self._world.processes_at(fault.target):
            process.node.stopped = True
            now = self._world.loop.time()
            process.node.pauses.append((now, now + fault.seconds))
            self._world.loop.outside_later(fault.seconds, self._wake, process.node)

    def _wake(self, node: Node) -> None:
        self._world.loop.wake(node)
        self._world.broker.deliver()

    def _term(self, fault: Fault) -> None:
        for process in self._world.processes_at(fault.target):
            process.terminate()

    def _poison(self, fault: Fault) -> None:
        asks = self._world.plan.asks
        if asks:
            self.poison[asks[fault.target % len(asks)].prompt(0)] = fault.steps

    def _redeliver(self, fault: Fault) -> None:
        for process in self._world.processes_at(fault.target):
            if hasattr(process, "consumer"):
                self._world.broker.redeliver(process.consumer)

    # What is done to the store

    def _restart(self, fault: Fault) -> None:
        self._world.restart_store(fault.seconds, forgets=False)

    def _forget(self, fault: Fault) -> None:
        self._world.restart_store(fault.seconds, forgets=True)

    def _clock(self, fault: Fault) -> None:
        jump = self._rng.uniform(1, 120)
        self._world.clock_offset -= jump

    def _vanish(self, fault: Fault) -> None:
        self._world.lose_inputs()

    def on_store(self, node: Node, rng: random.Random) -> str:
        """Return what becomes of a request to the store; "" for nothing."""
        for fault in self._lasting["store"]:
            if self._world.is_at(node, fault.target) and rng.random() < fault.share:
                return fault.mode
        return ""

    def disk_is_slow(self) -> bool:
        return any(self._rng.random() < fault.share for fault in self._lasting["disk"])

    # What is done to the broker, the storage and the model servers

    def _message(self, mode: str, rng: random.Random) -> bool:
        return any(
            fault.mode == mode and rng.random() < fault.share for fault in self._lasting["broker"]
        )

    def loses_message(self, rng: random.Random) -> bool:
        return self._message("loses", rng)

    def doubles_message(self, rng: random.Random) -> bool:
        return self._message("doubles", rng)

    def delays_message(self, rng: random.Random) -> bool:
        return self._message("delays", rng)

    def loses_confirm(self, rng: random.Random) -> bool:
        return self._message("unconfirmed", rng)

    def broker_is_away(self) -> bool:
        return any(fault.mode == "away" for fault in self._lasting["broker"])

    def broker_hangs(self) -> bool:
        return any(fault.mode == "hangs" for fault in self._lasting["broker"])

    def storage_fails(self) -> bool:
        return any(self._rng.random() < fault.share for fault in self._lasting["storage"])

    def mode_of(self, tier: str, rng: random.Random) -> str:
        """Return how a model server behaves for one request."""
        for fault in self._lasting["model"]:
            tiers = list(self._world.settings.model_tiers)
            mine = fault.target == EVERYBODY or tiers[fault.target % len(tiers)] == tier
            if mine and rng.random() < fault.share:
                return fault.mode
        return "ok"
