"""Who asks: jobs, chats and batches, and what they were told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulation.nodes import Gone, Reply

if TYPE_CHECKING:
    import random

    from simulation.world import World

ASK_SECONDS = 20.0  # in which they come
JOB_FINAL = {"succeeded", "failed", "cancelled", "expired"}
BATCH_FINAL = {"completed", "failed", "expired", "cancelled"}
BUSY = {429, 503}
KINDS = {"job": 6, "jobs": 3, "chat": 3, "leaver": 1, "batch": 3}


@dataclass(frozen=True)
class Ask:
    """What one caller wants. lines: jobs of one request, or lines of a batch.

    keyed: it sends an Idempotency-Key, and again until it is told something. cancels: after so many
    seconds. waits: what is done when no tier can answer. seconds: until it is of no use any more.
    """

    number: int
    kind: str
    at: float
    lines: int
    keyed: bool
    cancels: float | None
    cache: str
    waits: str
    seconds: float

    def prompt(self, line: int) -> str:
        return f"ask {self.number} line {line}"


def asks_of(rng: random.Random) -> list[Ask]:
    """Return what is asked in a run."""
    kinds = rng.choices(list(KINDS), KINDS.values(), k=rng.randint(2, 9))
    return [
        Ask(
            number=number,
            kind=kind,
            at=rng.random() * ASK_SECONDS,
            lines=rng.randint(1, 7),
            keyed=rng.random() < 0.6,
            cancels=rng.random() * 15 if rng.random() < 0.15 else None,
            cache=rng.choice(("fallback", "first", "off")),
            waits=rng.choice(("degraded", "fail", "wait")),
            seconds=rng.choice((5.0, 20.0, 3600.0, 3600.0, 3600.0)),
        )
        for number, kind in enumerate(kinds)
    ]


@dataclass
class Seen:
    """What was seen of a job or a batch: the first final state, and whether it was accepted."""

    name: str
    ask: Ask
    line: int
    accepted_at: float
    final: dict[str, Any] | None = None
    files: dict[str, bytes] = field(default_factory=dict)


class Callers:
    """All of them, as one process that nothing happens to."""

    def __init__(self, world: World, asks: list[Ask]) -> None:
        self._world = world
        self.asks = asks
        self.jobs: dict[str, Seen] = {}
        self.batches: dict[str, Seen] = {}
        self.open = len(asks)
        for ask in asks:
            world.loop.start(world.loop.outside, self._run(ask))

    async def _run(self, ask: Ask) -> None:
        await asyncio.sleep(ask.at)
        with contextlib.suppress(Gone):
            await getattr(self, f"_{ask.kind}")(ask)
        self.open -= 1

    async def request(self, method: str, path: str, value: Any = None, **options: Any) -> Reply:
        """Send a request to one of the APIs; raises Gone."""
        content = value if isinstance(value, bytes) else b"" if value is None else _json(value)
        headers = {"content-length": str(len(content)), **options.get("headers", {})}
        leave = options.get("leave", 60.0)
        api = self._world.an_api()
        if api is None:
            await asyncio.sleep(0.5)
            raise Gone
        reply = await api.request(method, path, content, headers, leave)
        if reply.status == 500:
            self._world.violated(f"{method} {path} was answered with 500: {reply.content!r}")
        return reply

    async def _insist(self, method: str, path: str, value: Any = None, **options: Any) -> Reply:
        """Send a request until something else is said than "try again"."""
        while not self._world.over:
            try:
                reply = await self.request(method, path, value, **options)
                if reply.status not in BUSY and reply.status != 409:
                    return reply
            except Gone:
                pass
            await asyncio.sleep(1.0)
        raise Gone

    async def _create(
        self, ask: Ask, path: str, value: Any, headers: dict[str, str]
    ) -> Reply | None:
        """Create something: again and again with a key, once without."""
        if ask.keyed:
            headers = {**headers, "idempotency-key": f"key {ask.number} {path}"}
            return await self._insist("POST", path, value, headers=headers)
        try:
            return await self.request("POST", path, value, headers=headers)
        except Gone:
            return None

    # Jobs

    async def _job(self, ask: Ask) -> None:
        await self._submit(ask, self._body(ask, 0), 1)

    async def _jobs(self, ask: Ask) -> None:
        await self._submit(
            ask, {"requests": [self._body(ask, i) for i in range(ask.lines)]}, ask.lines
        )

    def _body(self, ask: Ask, line: int) -> dict[str, Any]:
        return {
            "prompt": ask.prompt(line),
            "cache": ask.cache,
            "on_exhausted": ask.waits,
            "deadline_seconds": ask.seconds,
        }

    async def _submit(self, ask: Ask, value: Any, number: int) -> None:
        reply = await self._create(ask, "/v1/jobs", value, {})
        if reply is None or reply.status in BUSY:
            return
        if reply.status != 202:
            self._world.violated(f"{ask}: POST /v1/jobs was answered with {reply.status}")
            return
        told = json.loads(reply.content)
        names = [job["id"] for job in (told.get("data", [told]))]
        if len(names) != number:
            self._world.violated(f"{ask}: {len(names)} of {number} jobs were accepted")
        now = self._world.loop.time()
        for line, name in enumerate(names):
            self.jobs[name] = Seen(name, ask, line, now)
        if ask.cancels is not None:
            self._world.loop.start(
                self._world.loop.outside, self._cancel(f"/v1/jobs/{names[0]}", ask)
            )
        await asyncio.gather(*(self.follow_job(name) for name in names))

    async def _cancel(self, path: str, ask: Ask) -> None:
        await asyncio.sleep(ask.cancels or 0)
        with contextlib.suppress(Gone):
            await self._insist("POST", f"{path}/cancel")

    async def follow_job(self, name: str) -> None:
        """Poll a job until it is final."""
        while True:
            reply = await self._insist("GET", f"/v1/jobs/{name}?wait=20")
            if reply.status == 404:
                if not self._world.may_be_forgotten(self.jobs[name].accepted_at):
                    self._world.violated(f"{name} was accepted, and is not known")
                del self.jobs[name]
                return
            job = json.loads(reply.content)
            if job["status"] in JOB_FINAL:
                self._saw(self.jobs[name], job)
                return
            await asyncio.sleep(0.2)

    def _saw(self, seen: Seen, job: dict[str, Any]) -> None:
        seen.final = job
        answer = job.get("text") or ""
        model = job.get("tier_used") in {"gpu", "cpu", "cache"} and job["status"] == "succeeded"
        if model and not answer.endswith(seen.ask.prompt(seen.line)):
            self._world.violated(f"{seen.name}: the answer is another's: {answer!r}")
        if job["status"] == "succeeded" and not answer:
            self._world.violated(f"{seen.name}: succeeded without an answer")
        if job["status"] == "cancelled" and seen.ask.cancels is None:
            self._world.violated(f"{seen.name}: cancelled by nobody")
        early = job["finished_at"] < job["deadline_at"]
        if job["status"] == "expired" and early and not self._world.clock_offset:
            self._world.violated(f"{seen.name}: expired before its deadline")

    # Chats

    async def _chat(self, ask: Ask, leave: float = 200.0) -> None:
        value = {
            "messages": [{"role": "user", "content": ask.prompt(0)}],
            "fallthrough": {
                "cache": ask.cache,
                "on_exhausted": ask.waits,
                "deadline_seconds": min(ask.seconds, 100.0),
            },
        }
        try:
            reply = await self.request("POST", "/v1/chat/completions", value, leave=leave)
        except Gone:
            return
        if reply.status == 200 and "x-fallthrough-degraded" not in reply.headers:
            text = json.loads(reply.content)["choices"][0]["message"]["content"]
            if not text.endswith(ask.prompt(0)):
                self._world.violated(f"{ask}: the answer is another's: {text!r}")
        elif reply.status not in {200, 400, 404, 429, 503, 504}:
            self._world.violated(f"{ask}: a chat was answered with {reply.status}")

    async def _leaver(self, ask: Ask) -> None:
        await self._chat(ask, leave=ask.lines / 2)

    # Batches

    async def _batch(self, ask: Ask) -> None:
        lines = [
            {
                "custom_id": f"line {i}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"messages": [{"role": "user", "content": ask.prompt(i)}]},
            }
            for i in range(ask.lines)
        ]
        file_id = await self._upload(ask, b"".join(_json(line) + b"\n" for line in lines))
        if file_id is None:
            return
        uploaded = self._world.loop.time()
        value = {
            "input_file_id": file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": f"{int(ask.seconds)}s",
            "metadata": {"fallthrough_on_exhausted": ask.waits},
        }
        reply = await self._create(ask, "/v1/batches", value, {})
        if reply is None or reply.status in BUSY:
            return
        if reply.status != 200:
            forgotten = self._world.may_be_forgotten(uploaded)
            if reply.status != 400 or not forgotten:
                self._world.violated(f"{ask}: POST /v1/batches was answered with {reply.status}")
            return
        name = json.loads(reply.content)["id"]
        self.batches[name] = Seen(name, ask, 0, self._world.loop.time())
        if ask.cancels is not None:
            self._world.loop.start(
                self._world.loop.outside, self._cancel(f"/v1/batches/{name}", ask)
            )
        await self.follow_batch(name)

    async def _upload(self, ask: Ask, content: bytes) -> str | None:
        part = (
            b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
            + content
            + b"\r\n--x--\r\n"
        )
        headers = {"content-type": "multipart/form-data; boundary=x"}
        reply = await self._create(ask, "/v1/files", part, headers)
        if reply is None or reply.status in BUSY:
            return None
        if reply.status != 200:
            self._world.violated(f"{ask}: POST /v1/files was answered with {reply.status}")
            return None
        return str(json.loads(reply.content)["id"])

    async def follow_batch(self, name: str) -> None:
        """Poll a batch until it is final, and read its files."""
        seen = self.batches[name]
        while True:
            reply = await self._insist("GET", f"/v1/batches/{name}")
            if reply.status == 404:
                if not self._world.may_be_forgotten(seen.accepted_at):
                    self._world.violated(f"{name} was accepted, and is not known")
                del self.batches[name]
                return
            batch = json.loads(reply.content)
            if batch["status"] in BATCH_FINAL:
                break
            await asyncio.sleep(1.0)
        seen.final = batch
        seen.files = await self.files_of(batch)
        self._check_lines(seen)

    async def files_of(self, batch: dict[str, Any]) -> dict[str, bytes]:
        """Return the content of a batch's files."""
        files = {}
        for kind in ("output", "error"):
            file_id = batch[f"{kind}_file_id"]
            if file_id:
                reply = await self._insist("GET", f"/v1/files/{file_id}/content")
                if reply.status != 200:
                    self._world.violated(f"{batch['id']}: its {kind} file: {reply.status}")
                files[kind] = reply.content
        return files

    def _check_lines(self, seen: Seen) -> None:
        batch, ask, world = seen.final or {}, seen.ask, self._world
        if batch["status"] == "failed":
            codes = [error["code"] for error in (batch["errors"] or {}).get("data", [])]
            world.violated(f"{seen.name}: a good batch failed: {codes}")
            return
        output, errors = (
            [json.loads(text) for text in seen.files.get(kind, b"").splitlines()]
            for kind in ("output", "error")
        )
        ids = Counter(line["custom_id"] for line in output + errors)
        if ids != Counter(f"line {i}" for i in range(ask.lines)):
            world.violated(
                f"{seen.name}: {ask.lines} lines went in, {sorted(ids.items())} came out"
            )
        counts = batch["request_counts"]
        told = (counts["total"], counts["completed"], counts["failed"])
        if told != (ask.lines, len(output), len(errors)):
            world.violated(f"{seen.name}: counts {told}, lines {len(output)} + {len(errors)}")
        for line in output:
            text = line["response"]["body"]["choices"][0]["message"]["content"]
            prompt = ask.prompt(int(line["custom_id"].split()[1]))
            if not text.endswith(prompt) and ask.waits != "degraded":
                world.violated(f"{seen.name}: the answer is another's: {text!r}")
        if batch["status"] == "cancelled" and ask.cancels is None:
            world.violated(f"{seen.name}: cancelled by nobody")


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
