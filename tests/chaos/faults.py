"""Every fault: what it does to the stage, for how long, and how it is mended.

A fault is a function of the stage and the dice. It returns when the outage is over: what was killed
has been started again, what was cut off is joined. From then on the time to recover counts.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from chaos.stage import LEASE_SECONDS, Stage, start_again, wait_for_store

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from harness.processes import Process
    from harness.proxy import Proxy

LONGEST = 3.0  # seconds of most outages
LONGER = 6.0  # of one that is longer than a lease
FURTHEST = 60  # seconds by which a clock is set at once
NOWHERE = 9  # a port where no store is


@dataclass(frozen=True)
class Fault:
    """One kind of fault. once: nothing may run twice because of it."""

    name: str
    inflict: Callable[[Stage, random.Random], None]
    once: bool = False


def hold(dice: random.Random, shortest: float = 0.3, longest: float = LONGEST) -> None:
    """Let the outage last."""
    time.sleep(dice.uniform(shortest, longest))


def kill(kind: str, number: signal.Signals, stage: Stage, dice: random.Random) -> None:
    """End one process, and start it again as a supervisor does."""
    process = dice.choice(getattr(stage, kind))
    stage.end(process, number)
    start_again([process])


def stop(kind: str, stage: Stage, dice: random.Random) -> None:
    """Stop one process (SIGSTOP), and let it go on."""
    process = dice.choice(getattr(stage, kind)).process
    pause(process.pid, dice)


def pause(pid: int, dice: random.Random) -> None:
    os.kill(pid, signal.SIGSTOP)
    hold(dice, longest=dice.choice([LONGEST, LONGER]))
    os.kill(pid, signal.SIGCONT)


def kill_node(stage: Stage, dice: random.Random, *, with_store: bool) -> None:
    """End all that lies on one machine at once; with the store, or without."""
    node: list[Process] = dice.choice(stage.nodes)
    if with_store and stage.store.process:
        stage.store.process.kill()
    for process in node:
        stage.end(process, signal.SIGKILL)
    if with_store:
        restart_store(stage)
    start_again(node)


def roll(stage: Stage, dice: random.Random) -> None:
    """Restart every process, one after the other, as a deployment does."""
    for process in dice.sample(stage.processes, len(stage.processes)):
        stage.end(process, signal.SIGTERM)
        start_again([process])
        process.wait_until_ready()


def restart_store(stage: Stage) -> None:
    stage.store.kill()
    stage.store.start()
    wait_for_store(stage.store)


def kill_store(stage: Stage, dice: random.Random) -> None:
    """End the store (and the broker on it) with kill -9; it comes back with what it wrote down."""
    stage.store.kill()
    hold(dice, 0.0, 1.5)
    restart_store(stage)


def stop_store(stage: Stage, dice: random.Random) -> None:
    """Stop the store (SIGSTOP), and let it go on."""
    assert stage.store.process
    pause(stage.store.process.pid, dice)


def kill_rabbitmq(stage: Stage, dice: random.Random) -> None:
    """End the broker with kill -9; it comes back with what it wrote down."""
    assert stage.rabbitmq
    stage.rabbitmq.kill()
    hold(dice, 0.0, 1.5)
    stage.rabbitmq.start()


def stop_rabbitmq(stage: Stage, dice: random.Random) -> None:
    """Stop the broker (SIGSTOP), and let it go on."""
    assert stage.rabbitmq
    with stage.rabbitmq.stopped():
        hold(dice, longest=dice.choice([LONGEST, LONGER]))


def close_rabbitmq(stage: Stage, dice: random.Random) -> None:
    """Have the broker close every connection."""
    assert stage.rabbitmq
    stage.rabbitmq.close_connections()


def kill_clients(stage: Stage, dice: random.Random) -> None:
    """Have the store end every connection: commands' and subscriptions'."""
    with stage.store.client() as client:
        for kind in dice.sample(["normal", "pubsub"], 2):
            client.execute_command("CLIENT", "KILL", "TYPE", kind)


def fill_memory(stage: Stage, dice: random.Random) -> None:
    """Have the store refuse what takes memory (OOM), and then have room again."""
    with stage.store.client() as client:
        client.config_set("maxmemory", "1mb")
        hold(dice)
        client.config_set("maxmemory", "0")


def fail_over(stage: Stage, dice: random.Random) -> None:
    """Have the store be a replica that takes no writes (READONLY), and then the primary again."""
    with stage.store.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", NOWHERE)
        hold(dice)
        client.execute_command("REPLICAOF", "NO", "ONE")


def fill_disk(which: str, stage: Stage, dice: random.Random) -> None:
    """Have a disk be full, and then have room again."""
    host = getattr(stage, which)
    host.fill()
    hold(dice)
    host.heal()


def slow_disk(stage: Stage, dice: random.Random) -> None:
    """Have every fsync of the store take up to a second."""
    assert stage.store_host
    stage.store_host.slow_down(dice.uniform(0.2, 1.0))
    hold(dice)
    stage.store_host.heal()
    # Until it has caught up, a kill of the store would lose what by default it may lose.
    with stage.store.client() as client:
        client.set("chaos", 1, px=1)
        client.execute_command("WAITAOF", 1, 0, 4000)


def set_clock(stage: Stage, dice: random.Random, *, sign: int) -> None:
    """Set the store's clock forward or back, by more than any lease; it stays so.

    By less than the deadline of a chat, which is by that clock: what is past it has expired.
    """
    assert stage.store_host
    jump = dice.randint(LEASE_SECONDS, FURTHEST)
    stage.store_host.set_clock(stage.store_host.seconds_ahead + sign * jump)


def slow_disk_of_rabbitmq(stage: Stage, dice: random.Random) -> None:
    """Have every fsync of the broker take up to a second."""
    assert stage.broker_host
    stage.broker_host.slow_down(dice.uniform(0.2, 1.0))
    hold(dice)
    stage.broker_host.heal()


def alarm_rabbitmq(stage: Stage, dice: random.Random) -> None:
    """Have the broker find its disk too full: it takes no message, and says so to publishers."""
    assert stage.rabbitmq
    stage.rabbitmq.control("set_disk_free_limit", "1000000GB")
    hold(dice)
    stage.rabbitmq.control("set_disk_free_limit", "50MB")


def kill_store_of_slow_disk(stage: Stage, dice: random.Random) -> None:
    """End the store with kill -9 while its fsync takes a second: what is not on disk is lost."""
    assert stage.store_host
    stage.store_host.slow_down(dice.uniform(0.5, 1.0))
    hold(dice, 1.0)
    stage.store.kill()
    stage.store_host.heal()
    restart_store(stage)


def lose(link: Proxy, dice: random.Random) -> None:
    """Lose the routes that are, for good, and every new one for a while, without a word."""
    link.forget()
    link.freeze()
    hold(dice)
    link.thaw()


def freeze(link: Proxy, dice: random.Random) -> None:
    """Hold every byte back, as a cable that is pulled and put in again."""
    link.freeze()
    hold(dice)
    link.thaw()


def refuse(link: Proxy, dice: random.Random) -> None:
    """Reset what is, and take no connection for a while."""
    link.refuse()
    hold(dice)
    link.accept()


def delay(link: Proxy, dice: random.Random) -> None:
    """Let every byte be up to half a second on its way."""
    link.delay = dice.uniform(0.05, 0.5)
    hold(dice)
    link.delay = 0.0


def reset(link: Proxy, dice: random.Random) -> None:
    """End every connection with a RST; perhaps a few times."""
    for _ in range(dice.choice([1, 1, 3])):
        link.reset()
        hold(dice, 0.0, 0.1)


def finish(link: Proxy, dice: random.Random) -> None:
    """End every connection with a FIN."""
    link.finish()


def on_link(name: str, act: Callable[[Proxy, random.Random], None]) -> Callable[..., None]:
    return lambda stage, dice: act(stage.links[name], dice)


def all_faults(stage: Stage) -> list[Fault]:
    """Return the faults that this stage can have."""
    faults = [
        Fault("node killed", partial(kill_node, with_store=False)),
        Fault("node killed, with the store", partial(kill_node, with_store=True)),
        Fault("rolling restart", roll, once=True),
        Fault("kill -9 store", kill_store),
        Fault("SIGSTOP store", stop_store),
        Fault("CLIENT KILL store", kill_clients, once=True),
        Fault("OOM store", fill_memory),
        Fault("READONLY store", fail_over),
    ]
    for kind in ("api", "worker"):
        faults += [
            Fault(f"kill -9 {kind}", partial(kill, f"{kind}s", signal.SIGKILL)),
            Fault(f"SIGTERM {kind}", partial(kill, f"{kind}s", signal.SIGTERM), once=True),
            Fault(f"SIGSTOP {kind}", partial(stop, f"{kind}s")),
        ]
    for name in stage.links:
        faults += [
            Fault(f"RST {name}", on_link(name, reset), once=True),
            Fault(f"FIN {name}", on_link(name, finish), once=True),
            Fault(f"silent loss {name}", on_link(name, lose)),
            Fault(f"frozen {name}", on_link(name, freeze)),
            Fault(f"refused {name}", on_link(name, refuse)),
            Fault(f"delay {name}", on_link(name, delay)),
        ]
    if stage.rabbitmq:
        faults += [
            Fault("kill -9 rabbitmq", kill_rabbitmq),
            Fault("SIGSTOP rabbitmq", stop_rabbitmq),
            Fault("connections closed rabbitmq", close_rabbitmq, once=True),
        ]
    if stage.store_host:
        faults += [
            Fault("disk full store", partial(fill_disk, "store_host")),
            Fault("disk full files", partial(fill_disk, "fleet_host")),
            Fault("slow fsync store", slow_disk),
            Fault("clock set forward store", partial(set_clock, sign=1)),
            Fault("clock set back store", partial(set_clock, sign=-1)),
        ]
    if stage.rabbitmq and stage.broker_host:
        faults += [
            Fault("disk alarm rabbitmq", alarm_rabbitmq),
            Fault("slow fsync rabbitmq", slow_disk_of_rabbitmq),
        ]
    if stage.store_host and stage.durable:  # else what is lost then is the default's stated risk
        faults.append(Fault("kill -9 store, slow fsync", kill_store_of_slow_disk))
    return faults
