"""Who asks: jobs, chats and batches, and what they were told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.told import Told

from simulation.loop import BEGIN, EPOCH
from simulation.nodes import Gone, Reader, Reply

if TYPE_CHECKING:
    import random

    from simulation.world import World

ASK_SECONDS = 20.0  # in which they come
WOKEN_SECONDS = 1.0  # until who waits for a job is told of its end, when no link breaks
JOB_FINAL = {"succeeded", "failed", "cancelled", "expired"}
BATCH_FINAL = {"completed", "failed", "expired", "cancelled"}
# The times that a batch shows at its end.
TIMES = {
    "completed": {"in_progress", "finalizing", "completed"},
    "expired": {"finalizing", "expired"},
    "cancelled": {"cancelling", "finalizing", "cancelled"},
    "failed": {"failed"},
}
BUSY = {429, 503}
KINDS = {"job": 6, "jobs": 3, "chat": 3, "leaver": 1, "batch": 4}
OWNERS = ("ann", "bob")


@dataclass(frozen=True)
class Ask:
    """What one caller wants. lines: jobs of one request, or lines of a batch.

    keyed: it sends an Idempotency-Key, and again until it is told something; repeats: and once more
    when it was told. cancels: after so many seconds. waits: what is done when no tier can answer.
    seconds: until it is of no use any more. tidies: it deletes its files. streams: its answer is to
    come as it is made; so many followers read it, where it is a job.
    """

    number: int
    kind: str
    owner: str
    at: float
    lines: int
    keyed: bool
    repeats: bool
    cancels: float | None
    cache: str
    waits: str
    seconds: float
    tidies: bool
    streams: int = 0

    def prompt(self, line: int) -> str:
        return f"ask {self.number} line {line}"


def asks_of(rng: random.Random, streams: random.Random) -> list[Ask]:
    """Return what is asked in a run. streams: the chance by which it is streamed."""
    kinds = rng.choices(list(KINDS), KINDS.values(), k=rng.randint(2, 9))
    within = rng.choice((1.0, ASK_SECONDS))
    return [
        Ask(
            number=number,
            kind=kind,
            owner=rng.choice(OWNERS),
            at=rng.random() * within,
            lines=rng.randint(1, 7),
            keyed=rng.random() < 0.6,
            repeats=rng.random() < 0.4,
            cancels=rng.random() * rng.choice((0.1, 1, 4, 15)) if rng.random() < 0.25 else None,
            cache=rng.choice(("fallback", "first", "off")),
            waits=rng.choice(("degraded", "fail", "wait")),
            seconds=rng.choice((1.0, 5.0, 20.0, 3600.0, 3600.0, 3600.0, 3600.0)),
            tidies=rng.random() < 0.3,
            streams=streams.choice((0, 0, 1, 2)),
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
    deleted: bool = False  # its files are
    cancelled_at: float | None = None
    told: list[Told] = field(default_factory=list)  # of its followers


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

    async def request(
        self, owner: str, method: str, path: str, value: Any = None, **options: Any
    ) -> Reply:
        """Send a request to one of the APIs; raises Gone."""
        content = value if isinstance(value, bytes) else b"" if value is None else _json(value)
        headers = {"content-length": str(len(content)), **options.get("headers", {})}
        if self._world.secrets:
            headers["authorization"] = f"Bearer {self._world.secrets[owner]}"
        api = self._world.an_api()
        if api is None:
            await asyncio.sleep(0.5)
            raise Gone
        reader = Reader(options.get("leave", 60.0), options.get("heard", lambda _: None))
        reply = await api.request(method, path, content, headers, reader)
        if reply.status == 500 and b'"worker_lost"' not in reply.content:
            self._world.violated(f"{method} {path} was answered with 500: {reply.content!r}")
        return reply

    async def insist(
        self, owner: str, method: str, path: str, value: Any = None, **options: Any
    ) -> Reply:
        """Send a request until something else is said than "try again"; raises Gone at the end."""
        while not self._world.over:
            try:
                reply = await self.request(owner, method, path, value, **options)
                under_way = reply.status == 409 and b"upload_under_way" in reply.content
                if reply.status not in BUSY and not under_way:
                    return reply
            except Gone:
                pass
            await asyncio.sleep(1.0)
        raise Gone

    async def _create(
        self, ask: Ask, path: str, value: Any, headers: dict[str, str]
    ) -> Reply | None:
        """Create something: again and again with a key, once without."""
        if not ask.keyed:
            try:
                return await self.request(ask.owner, "POST", path, value, headers=headers)
            except Gone:
                return None
        headers = {**headers, "idempotency-key": f"key {ask.number}"}
        return await self.insist(ask.owner, "POST", path, value, headers=headers)

    async def _repeat(self, ask: Ask, path: str, value: Any, names: list[str]) -> None:
        """Create it once more with its key: it must be the same; and something else with it."""
        began = self._world.loop.time()
        again = await self._create(ask, path, value, {})
        told = json.loads(again.content) if again else {}
        same = [each.get("id") for each in told.get("data", [told])]
        if same != names and not self._world.may_be_forgotten(began):
            self._world.violated(f"{ask}: {names} were made, and then {same} with the same key")
        other = await self._create(ask, path, {**value, "metadata": {"another": "one"}}, {})
        allowed = {422, 400} if "requests" in value or ask.tidies else {422}
        if other and other.status not in allowed and not self._world.may_be_forgotten(began):
            self._world.violated(f"{ask}: a key used for something else: {other.status}")

    # Jobs

    async def _job(self, ask: Ask) -> None:
        await self._submit(ask, self._body(ask, 0), 1)

    async def _jobs(self, ask: Ask) -> None:
        bodies = [self._body(ask, i) for i in range(ask.lines)]
        await self._submit(ask, {"requests": bodies}, ask.lines)

    def _body(self, ask: Ask, line: int) -> dict[str, Any]:
        return {
            "prompt": ask.prompt(line),
            "cache": ask.cache,
            "on_exhausted": ask.waits,
            "deadline_seconds": ask.seconds,
            "stream": ask.streams > 0,
        }

    async def _submit(self, ask: Ask, value: Any, number: int) -> None:
        reply = await self._create(ask, "/v1/jobs", value, {})
        if reply is None or reply.status in BUSY:
            return
        if reply.status != 202:
            self._world.violated(f"{ask}: POST /v1/jobs was answered with {reply.status}")
            return
        told = json.loads(reply.content)
        names = [job["id"] for job in told.get("data", [told])]
        if len(names) != number:
            self._world.violated(f"{ask}: {len(names)} of {number} jobs were accepted")
        now = self._world.loop.time()
        for line, name in enumerate(names):
            self.jobs[name] = Seen(name, ask, line, now)
        work = [self.follow_job(name) for name in names]
        work += [self._follow_stream(self.jobs[n], i) for n in names for i in range(ask.streams)]
        if ask.cancels is not None:
            work.append(self._cancel(f"/v1/jobs/{names[0]}", self.jobs[names[0]]))
        if ask.keyed and ask.repeats:
            work.append(self._repeat(ask, "/v1/jobs", value, names))
        await asyncio.gather(*work)

    async def _cancel(self, path: str, seen: Seen) -> None:
        await asyncio.sleep(seen.ask.cancels or 0)
        reply = await self.insist(seen.ask.owner, "POST", f"{path}/cancel")
        if reply.status == 200:
            seen.cancelled_at = self._world.loop.time()

    async def follow_job(self, name: str) -> None:
        """Poll a job until it is final."""
        seen = self.jobs[name]
        while True:
            reply = await self.insist(seen.ask.owner, "GET", f"/v1/jobs/{name}?wait=20")
            if reply.status == 404:
                if not self._world.may_be_forgotten(seen.accepted_at):
                    self._world.violated(f"{name} was accepted, and is not known")
                self.jobs.pop(name, None)
                return
            job = json.loads(reply.content)
            if job["status"] in JOB_FINAL:
                self._saw(seen, job)
                return
            await asyncio.sleep(0.2)

    async def _follow_stream(self, seen: Seen, number: int) -> None:
        """Follow a job's answer from its beginning to its end, on from where it was broken off."""
        told = Told()
        seen.told.append(told)
        await asyncio.sleep(number * 3.0)
        while not self._world.over:
            path = f"/v1/jobs/{seen.name}/stream"
            if told.chunks:
                path += f"?starting_after={len(told.chunks) - 1}"
            told.begin()
            try:
                reply = await self.request(seen.ask.owner, "GET", path, heard=told.hear)
            except Gone:
                await asyncio.sleep(0.5)
                continue
            if reply.status == 200 and reply.whole != told.done:
                told.wrong.append("its body is whole, and it is not done; or the other way round")
            code = (told.error or {}).get("code")
            if reply.status == 200 and code not in {"stopping", "unavailable"}:
                return
            if reply.status not in {200, *BUSY}:
                if not self._world.forgotten:
                    told.wrong.append(f"it was answered with {reply.status}: {reply.content!r}")
                return
            await asyncio.sleep(0.5)

    def answers_to(self, ask: Ask, line: int) -> list[str]:
        """Return what may be said to a prompt."""
        answers = [f"{tier}: {ask.prompt(line)}" for tier in self._world.settings.model_tiers]
        if ask.waits == "degraded":
            answers.append(self._world.settings.degraded_message)
        return answers

    def _saw(self, seen: Seen, job: dict[str, Any]) -> None:
        first, seen.final = seen.final is None and not self._world.checking, job
        answer = job.get("text") or ""
        model = (
            job.get("tier_used") in {*self._world.settings.model_tiers, "cache"}
            and job["status"] == "succeeded"
        )
        if model and not answer.endswith(seen.ask.prompt(seen.line)):
            self._world.violated(f"{seen.name}: the answer is another's: {answer!r}")
        if model and job["started_at"] is None:
            self._world.violated(f"{seen.name}: succeeded without having begun")
        if job["status"] == "succeeded" and not answer:
            self._world.violated(f"{seen.name}: succeeded without an answer")
        if job["status"] == "cancelled" and seen.ask.cancels is None:
            self._world.violated(f"{seen.name}: cancelled by nobody")
        early = job["finished_at"] < job["deadline_at"]
        if job["status"] == "expired" and early and not self._world.clock_offset:
            self._world.violated(f"{seen.name}: expired before its deadline")
        settings = self._world.settings
        limited = settings.key_concurrency or settings.key_requests_per_minute
        if first and not limited and self._world.only_breaks("model", "broker", "redeliver"):
            began = max(job["finished_at"] - EPOCH + BEGIN, seen.accepted_at)
            if self._world.loop.time() - began > WOKEN_SECONDS:
                self._world.violated(f"{seen.name}: who waited was told too late")

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
        if ask.streams:
            await self._streamed_chat(ask, {**value, "stream": True}, leave)
            return
        retries = ask.keyed and ask.kind == "chat"
        for count in range(3 if retries else 1):  # as the SDK retries
            headers = {"x-stainless-retry-count": str(count)} if retries else {}
            try:
                reply = await self.request(
                    ask.owner, "POST", "/v1/chat/completions", value, headers=headers, leave=leave
                )
                if reply.status not in BUSY:
                    self._check_chat(ask, reply)
                    return
            except Gone:
                pass
            await asyncio.sleep(1.0)

    async def _streamed_chat(self, ask: Ask, value: Any, leave: float) -> None:
        told, reply = Told(), None
        # He may leave, or the API die: what he has heard counts all the same.
        with contextlib.suppress(Gone):
            reply = await self.request(
                ask.owner, "POST", "/v1/chat/completions", value, leave=leave, heard=told.hear
            )
        if reply is not None and "text/event-stream" not in reply.headers["content-type"]:
            if reply.status not in BUSY:
                self._check_chat(ask, reply)
            return
        if reply is not None and reply.whole != told.done:
            told.wrong.append("its body is whole, and it is not done; or the other way round")
        if reply is not None and not reply.whole and told.error is None:
            told.wrong.append("it was broken off without an error")
        for fault in told.faults(self.answers_to(ask, 0)):
            self._world.violated(f"{ask}: a stream: {fault}")

    def _check_chat(self, ask: Ask, reply: Reply) -> None:
        if reply.status == 200 and "x-fallthrough-degraded" not in reply.headers:
            text = json.loads(reply.content)["choices"][0]["message"]["content"]
            if not text.endswith(ask.prompt(0)):
                self._world.violated(f"{ask}: the answer is another's: {text!r}")
        elif reply.status not in {200, 400, 404, 413, 422, 500, 504}:
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
        seen = self.batches[name] = Seen(name, ask, 0, self._world.loop.time())
        work = [self.follow_batch(name)]
        if ask.cancels is not None:
            work.append(self._cancel(f"/v1/batches/{name}", seen))
        if ask.keyed and ask.repeats:
            work.append(self._repeat(ask, "/v1/batches", value, [name]))
        if ask.tidies:
            work.append(self._tidy_too_soon(seen, file_id))
        await asyncio.gather(*work)
        if ask.tidies:
            await self._tidy(seen, file_id)

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

    async def _tidy_too_soon(self, seen: Seen, file_id: str) -> None:
        reply = await self.insist(seen.ask.owner, "DELETE", f"/v1/files/{file_id}")
        if reply.status == 200:
            batch = await self.insist(seen.ask.owner, "GET", f"/v1/batches/{seen.name}")
            status = json.loads(batch.content).get("status")
            if status not in BATCH_FINAL and not self._world.forgotten:
                self._world.violated(f"{seen.name} is {status}, and its input could be deleted")

    async def _tidy(self, seen: Seen, file_id: str) -> None:
        """Delete the batch's files."""
        seen.deleted = True
        final = seen.final or {}
        for name in (file_id, final.get("output_file_id"), final.get("error_file_id")):
            if name is None:
                continue
            reply = await self.insist(seen.ask.owner, "DELETE", f"/v1/files/{name}")
            if reply.status not in {200, 404} and not self._world.forgotten:
                self._world.violated(f"{seen.name}: {name} is not deleted: {reply.content!r}")

    async def follow_batch(self, name: str) -> None:
        """Poll a batch until it is final, and read its files."""
        seen = self.batches[name]
        while True:
            reply = await self.insist(seen.ask.owner, "GET", f"/v1/batches/{name}")
            if reply.status == 404:
                if not self._world.may_be_forgotten(seen.accepted_at):
                    self._world.violated(f"{name} was accepted, and is not known")
                self.batches.pop(name, None)
                return
            batch = json.loads(reply.content)
            if batch["status"] in BATCH_FINAL:
                began, seen.final = self._world.loop.time(), batch
                files = {} if seen.deleted else await self._files_of(seen)
                # A store that forgot the end while they were read comes to it again.
                if not self._world.has_forgotten(began):
                    break
            await asyncio.sleep(1.0)
        if not seen.deleted:
            seen.files = files
            self._check_batch(seen)

    async def _files_of(self, seen: Seen) -> dict[str, bytes]:
        """Return the content of a batch's files; what its pages hold must be the same lines."""
        files, batch, owner = {}, seen.final or {}, seen.ask.owner
        began = self._world.loop.time()
        for kind in ("output", "error"):
            file_id = batch[f"{kind}_file_id"]
            if file_id:
                reply = await self.insist(owner, "GET", f"/v1/files/{file_id}/content")
                if reply.status != 200 and self._world.has_forgotten(began):
                    return {}
                if reply.status != 200:
                    self._world.violated(f"{seen.name}: its {kind} file: {reply.status}")
                files[kind] = reply.content
        lines, after = [], "0.0"
        while True:
            path = f"/v1/batches/{seen.name}/results?limit=3&after={after}"
            page = json.loads((await self.insist(owner, "GET", path)).content)
            if "data" not in page and self._world.has_forgotten(began):
                return {}
            if "data" not in page:
                self._world.violated(f"{seen.name}: no page {after}: {page}")
                break
            lines += [line["custom_id"] for line in page["data"]]
            after = page["next"]
            if page["done"]:
                break
        whole = [
            json.loads(text)["custom_id"] for each in files.values() for text in each.splitlines()
        ]
        if sorted(lines) != sorted(whole) and not self._world.has_forgotten(began):
            self._world.violated(f"{seen.name}: {whole} are in its files, {lines} on its pages")
        return files

    def _check_batch(self, seen: Seen) -> None:
        batch, ask, world = seen.final or {}, seen.ask, self._world
        shown = {name for name in TIMES[batch["status"]] if batch[f"{name}_at"] is None}
        if shown:
            world.violated(f"{seen.name} is {batch['status']}, without a time for {sorted(shown)}")
        if batch["status"] == "failed":
            if not world.vanished:
                world.violated(f"{seen.name}: a good batch failed: {batch['errors']}")
            return
        if batch["status"] == "cancelled" and ask.cancels is None:
            world.violated(f"{seen.name}: cancelled by nobody")
        output, errors = (
            [json.loads(text) for text in seen.files.get(kind, b"").splitlines()]
            for kind in ("output", "error")
        )
        ids = Counter(line["custom_id"] for line in output + errors)
        if ids != Counter(f"line {i}" for i in range(ask.lines)):
            came = sorted(ids.items(), key=str)
            world.violated(f"{seen.name}: {ask.lines} lines went in, {came} came out")
            return
        counts = batch["request_counts"]
        told = (counts["total"], counts["completed"], counts["failed"])
        if told != (ask.lines, len(output), len(errors)):
            world.violated(f"{seen.name}: counts {told}, lines {len(output)} + {len(errors)}")
        for line in output:
            text = line["response"]["body"]["choices"][0]["message"]["content"]
            prompt = ask.prompt(int(line["custom_id"].split()[1]))
            if not text.endswith(prompt) and ask.waits != "degraded":
                world.violated(f"{seen.name}: the answer is another's: {text!r}")


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
