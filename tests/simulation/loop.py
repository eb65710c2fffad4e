"""An event loop for many processes: seeded order, virtual time, and processes that can die."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import os
import sys
import time
from collections import deque
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine, Iterator

EPOCH = 1_800_000_000.0  # what time.time() says when a simulation begins
BEGIN = 1_000.0  # what time.monotonic() says then
FAULT_SECONDS = 30.0  # from then on, after which nothing breaks any more
STEP_SECONDS = 1e-4  # what a step takes, at most
THREAD_SECONDS = 0.01  # what a thread's work takes, at most


class Node:
    """A process: what its steps belong to. Between two of them it may be stopped, or die."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[asyncio.Handle] = deque()
        self.alive, self.stopped = True, False
        self.steps = 0
        self.dies_after: int | None = None  # steps
        self.died_at = float("inf")
        self.drained_at = float("inf")  # from when on what it still calls is cut off
        self.pauses: list[tuple[float, float]] = []
        self.on_death: Callable[[], None] = lambda: None
        self.context = contextvars.copy_context()
        self.context.run(current.set, self)

    def die(self) -> None:
        """End at once: no `finally` runs any more."""
        if self.alive:
            self.alive = False
            self.died_at = time.monotonic()
            self.ready.clear()
            self.on_death()


current: ContextVar[Node] = ContextVar("node")


class _Counted:
    """Sets of them have the same order in every run."""

    _numbers = itertools.count()

    def __new__(cls, *_: Any, **__: Any) -> Any:
        self = super().__new__(cls)
        self._number = next(_Counted._numbers)
        return self

    def __hash__(self) -> int:
        return self._number


class Future(_Counted, asyncio.Future):
    """A future with a number."""


class Task(_Counted, asyncio.Task):
    """A task with a number."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """Each process keeps the order of its own steps; whose turn it is, the seed says."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._now = BEGIN
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Node]] = []
        self._numbers = itertools.count()
        self._runnable: list[Node] = []
        self._tasks: list[Task] = []  # none is collected, and closed, in the middle of a run
        self.steps = 0
        self.defects: list[str] = []  # what nobody caught
        self.outside = Node("outside")  # the network, the broker, model servers: it never dies
        _Counted._numbers = itertools.count()

    # What asyncio asks of a loop

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def get_task_factory(self) -> None:
        return None

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> Future:
        return Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> Task:
        task = Task(coro, loop=self, **options)
        task._log_destroy_pending = False
        self._tasks.append(task)
        return task

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        handle = asyncio.Handle(callback, args, self, context)
        self._enqueue(handle, handle._context.get(current, self.outside))
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        node = handle._context.get(current, self.outside)
        heapq.heappush(self._timers, (when, next(self._numbers), handle, node))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # What a process that died would have looked at is nobody's fault.
        if "never retrieved" not in context["message"]:
            self.defects.append(f"{context['message']}: {context.get('exception')!r}")

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Future:
        """Do a thread's work as a step of its process, a little later."""
        future, node = self.create_future(), current.get()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:
                self.call_later(self._rng.random() * THREAD_SECONDS, _fail, future, error)
            else:
                self.call_later(self._rng.random() * THREAD_SECONDS, _settle, future, result)

        self.call_later(self._rng.random() * THREAD_SECONDS, work, context=node.context)
        return future

    # The run

    def outside_later(self, delay: float, callback: Any, *args: Any) -> None:
        """Have something happen that is no process's."""
        self.call_at(self._now + delay, callback, *args, context=self.outside.context)

    def start(self, node: Node, coro: Coroutine[Any, Any, Any]) -> Task:
        """Run a coroutine as a process's."""
        return self.create_task(coro, context=node.context.copy())

    def wake(self, node: Node) -> None:
        """Have a process that was stopped go on."""
        node.stopped = False
        if node.ready and node not in self._runnable:
            self._runnable.append(node)

    def _enqueue(self, handle: asyncio.Handle, node: Node) -> None:
        if not node.alive:
            return
        if not node.ready and not node.stopped:
            self._runnable.append(node)
        node.ready.append(handle)

    def run_until(self, done: Callable[[], bool], limit: float) -> bool:
        """Run until done, for so many seconds at most; whether it was done."""
        until = self._now + limit
        asyncio._set_running_loop(self)
        try:
            while not done():
                if self._now > until or not self._step():
                    return False
            return True
        finally:
            asyncio._set_running_loop(None)

    def _step(self) -> bool:
        timers, runnable = self._timers, self._runnable
        while timers and (timers[0][0] <= self._now or not runnable):
            when, _, handle, node = heapq.heappop(timers)
            if not handle._cancelled and node.alive:
                self._now = max(self._now, when)
                self._enqueue(handle, node)
        if not runnable:
            return False
        index = self._rng.randrange(len(runnable)) if len(runnable) > 1 else 0
        node = runnable[index]
        if not node.alive or node.stopped or not node.ready:
            runnable[index] = runnable[-1]
            runnable.pop()
            return True
        handle = node.ready.popleft()
        if not node.ready:
            runnable[index] = runnable[-1]
            runnable.pop()
        if not handle._cancelled:
            handle._run()
            self.steps += 1
            node.steps += 1
            self._now += self._rng.random() * STEP_SECONDS
            if node.dies_after is not None and node.steps >= node.dies_after:
                node.die()
        return True

    def advance(self, seconds: float) -> None:
        """Let time pass in which nothing happens."""
        self._now += seconds

    def close(self) -> None:
        """Close what was still running; what it does then reaches nobody."""
        for node in {node for *_, node in self._timers} | set(self._runnable):
            node.alive = False
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        asyncio._set_running_loop(self)
        try:
            for task in self._tasks:
                if not task.done():
                    with contextlib.suppress(BaseException):
                        task.get_coro().close()
        finally:
            asyncio._set_running_loop(None)
            sys.unraisablehook = hook
        self._timers.clear()
        self._tasks.clear()


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


@contextlib.contextmanager
def virtual(loop: VirtualLoop, rng: random.Random) -> Iterator[None]:
    """Have the whole program's clocks be the loop's, and its chance the seed's."""

    def wall() -> float:
        return loop.time() - BEGIN + EPOCH

    replaced = {
        (time, "monotonic"): loop.time,
        (time, "monotonic_ns"): lambda: int(loop.time() * 1e9),
        (time, "time"): wall,
        (time, "time_ns"): lambda: int(wall() * 1e9),
        (os, "urandom"): rng.randbytes,
    }
    kept = {(module, name): getattr(module, name) for module, name in replaced}
    for (module, name), value in replaced.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name), value in kept.items():
            setattr(module, name, value)
