"""Callers as there are: they create, retry as the openai SDK does, poll, and note what they see."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from harness.batches import FINAL, jsonl, line
from harness.told import Told

from tasks.settings import Settings

if TYPE_CHECKING:
    import random

    from chaos.ledger import Accepted, Ledger

FINAL_JOB = {"succeeded", "failed", "cancelled", "expired"}
TRIES = 8  # of a create: a patient client
TIMEOUT = 20.0  # of a request: an outage of some seconds, and ten more
POLL_SECONDS = 2.0
AGAIN_SECONDS = 0.2  # between two looks at something that is not final
BATCH_LINES = 24
PATIENCE = 90.0  # seconds after which what was accepted counts as lost
RETRIED = {408, 409, 429}
STREAMED = 0.3  # share of the jobs and chats whose answer is read as it comes
MODELS = ("gpu-model", "cpu-model")
DEGRADED = Settings().degraded_message


@dataclass
class Load:
    """Callers of several APIs; a retry goes to the next one, as through a balancer."""

    urls: list[str]
    ledger: Ledger
    label: str  # begins every prompt: none is asked twice in one run
    random: random.Random
    stopping: bool = False
    _number: itertools.count[int] = field(default_factory=itertools.count)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        limits = httpx.Limits(max_connections=200)
        self.http = httpx.AsyncClient(timeout=TIMEOUT, limits=limits)

    def begin(self, jobs: int = 8, chats: int = 4, batches: int = 2) -> None:
        """Start so many callers of each kind."""
        callers = [self._jobs] * jobs + [self._chats] * chats + [self._batches] * batches
        for caller in callers:
            self._spawn(self._until_stopped(caller))

    async def end(self, seconds: float) -> None:
        """Create nothing more; wait so long until what was accepted is final."""
        self.stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()
        for item in self.ledger.unfinished():
            self.ledger.problem(f"{item.id} is not final {seconds:g} s after the last fault")

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _until_stopped(self, caller: Any) -> None:
        while not self.stopping:
            try:
                await caller()
            except Exception as error:  # noqa: BLE001 - the run goes on, and fails at its end
                self.ledger.problem(f"a caller met {type(error).__name__}: {error}")
            await asyncio.sleep(self.random.uniform(0.05, 0.3))

    def prompt(self, kind: str) -> str:
        return f"{self.label} {kind} {next(self._number)}"

    async def send(self, method: str, path: str, **content: Any) -> httpx.Response | None:
        """Send a create as the SDK does; return the first answer that it takes, or None.

        Half of them have an Idempotency-Key; the others go by the SDK's count of its retries.
        """
        headers = {}
        if self.random.random() < 0.5:
            headers["idempotency-key"] = f"key {self.label} {next(self._number)}"
        first = self.random.randrange(len(self.urls))
        for tried in range(TRIES):
            url = self.urls[(first + tried) % len(self.urls)]
            headers["x-stainless-retry-count"] = str(tried)
            reply = None
            with contextlib.suppress(httpx.TransportError):
                reply = await self.http.request(method, url + path, headers=headers, **content)
            if reply is not None:
                self._check_status(method, path, reply)
                if reply.status_code < 500 and reply.status_code not in RETRIED:
                    return reply
            await asyncio.sleep(_delay(tried, reply, self.random))
        self.ledger.given_up[path] += 1
        return None

    def _check_status(self, method: str, path: str, reply: httpx.Response) -> None:
        if reply.status_code in {429, 503} or reply.status_code < 400:
            return
        code = reply.json().get("error", {}).get("code") if reply.content else None
        if code not in {"upload_under_way", "job_cancelled"}:
            self.ledger.problem(f"{method} {path}: {reply.status_code} {reply.text[:200]}")

    async def _jobs(self) -> None:
        prompts = [self.prompt("job") for _ in range(self.random.choice([1, 2, 5, 10]))]
        streams = self.random.random() < STREAMED
        requests = [{"prompt": prompt, "stream": streams} for prompt in prompts]
        body = {"requests": requests} if len(requests) > 1 else requests[0]
        reply = await self.send("POST", "/v1/jobs", json=body)
        if reply is None or reply.status_code != 202:
            return
        made = reply.json()["data"] if len(requests) > 1 else [reply.json()]
        items = [
            self.ledger.accept("job", job["id"], [prompt])
            for job, prompt in zip(made, prompts, strict=True)
        ]
        for item in items:
            item.streams = streams
        follow = self._follow_both if streams else self._follow
        await asyncio.gather(*(follow(item) for item in items))

    async def _follow(self, item: Accepted) -> None:
        until = time.monotonic() + PATIENCE
        while item.final_at is None and time.monotonic() < until:
            await self.look(item)

    async def _follow_both(self, item: Accepted) -> None:
        """Poll a job, and read its answer as it comes: both must say the same."""
        told, _ = await asyncio.gather(self._hear(item), self._follow(item))
        if not item.shown:
            return
        succeeded, prompt = item.shown["status"] == "succeeded", item.prompts[0]
        faults = told.faults([item.shown["text"]] if succeeded else _answers(prompt))
        if told.done != succeeded:
            faults.append(f"done: {told.done}, and the job {item.shown['status']}")
        for fault in faults:
            self.ledger.problem(f"{item.id}: a stream: {fault}")

    async def _hear(self, item: Accepted) -> Told:
        """Read a job's answer by any API, from where the one before broke off."""
        told, until = Told(), time.monotonic() + PATIENCE
        while time.monotonic() < until:
            url = f"{self.random.choice(self.urls)}/v1/jobs/{item.id}/stream"
            after = {"starting_after": len(told.chunks) - 1} if told.chunks else {}
            await self._read(told, "GET", url, params=after)
            if told.done or (told.error and told.error["code"] not in {"stopping", "unavailable"}):
                self.ledger.streams += 1
                return told
            await asyncio.sleep(AGAIN_SECONDS)
        self.ledger.problem(f"{item.id}: its stream did not end within {PATIENCE:g} s")
        return told

    async def _read(self, told: Told, method: str, url: str, **content: Any) -> bool:
        """Read one stream as far as it goes; return whether it was one."""
        told.begin()
        with contextlib.suppress(httpx.TransportError):
            async with self.http.stream(method, url, **content) as reply:
                if "text/event-stream" not in reply.headers["content-type"]:
                    await reply.aread()
                    self._check_status(method, url, reply)
                    return False
                async for piece in reply.aiter_bytes():
                    told.hear(piece)
                if not told.done:
                    self.ledger.problem(f"{method} {url}: a whole body, which is not done")
        return True

    async def look(self, item: Accepted) -> None:
        """Look once whether something is final; note what is seen."""
        reply = await self._get(f"/v1/{'jobs' if item.what == 'job' else 'batches'}/{item.id}")
        if reply is None:
            return
        if reply.status_code != 200:
            if reply.status_code == 404:
                self.ledger.see(item, "not found")
                self.ledger.problem(f"{item.id} was accepted, and is not found")
            return
        shown = reply.json()
        if item.what == "job" and shown["status"] in FINAL_JOB:
            self._see_job(item, shown)
        elif item.what == "batch" and shown["status"] in FINAL:
            await self._see_batch(item, shown)
        else:
            await asyncio.sleep(AGAIN_SECONDS)

    async def _get(self, path: str) -> httpx.Response | None:
        """Ask any API; None: it did not answer, and whoever asks again asks another."""
        url = self.random.choice(self.urls)
        wait = {"wait": POLL_SECONDS} if path.startswith("/v1/jobs") else {}
        try:
            reply = await self.http.get(url + path, params=wait, timeout=POLL_SECONDS + 3)
        except httpx.TransportError:
            await asyncio.sleep(AGAIN_SECONDS)
            return None
        self._check_status("GET", path, reply)
        if reply.status_code >= 500:
            await asyncio.sleep(AGAIN_SECONDS)
            return None
        return reply

    def _see_job(self, item: Accepted, shown: dict[str, Any]) -> None:
        item.shown = shown
        self.ledger.see(item, (shown["status"], shown["tier_used"], shown["text"]))
        text, prompt = shown["text"] or "", item.prompts[0]
        if shown["status"] == "succeeded" and shown["tier_used"] != "degraded":
            if not text.endswith(f": {prompt}"):
                self.ledger.problem(f"{item.id} asked {prompt!r} and was answered {text!r}")
        elif item.streams and (shown.get("error") or {}).get("code") == "upstream_interrupted":
            self.ledger.interrupted += 1
        elif shown["status"] != "succeeded":
            self.ledger.problem(f"{item.id} ended {shown['status']}: {shown.get('error')}")

    async def _chats(self) -> None:
        prompt = self.prompt("chat")
        body = {"messages": [{"role": "user", "content": prompt}]}
        if self.random.random() < STREAMED:
            await self._streamed_chat(prompt, {**body, "stream": True})
            return
        began = time.monotonic()
        self.ledger.open_chats += 1
        try:
            reply = await self.send("POST", "/v1/chat/completions", json=body)
        finally:
            self.ledger.open_chats -= 1
        if reply is None or reply.status_code != 200:
            return
        self.ledger.chats += 1
        self.ledger.longest_chat = max(self.ledger.longest_chat, time.monotonic() - began)
        text = reply.json()["choices"][0]["message"]["content"]
        if "x-fallthrough-degraded" not in reply.headers and not text.endswith(f": {prompt}"):
            self.ledger.problem(f"a chat asked {prompt!r} and was answered {text!r}")

    async def _streamed_chat(self, prompt: str, body: dict[str, Any]) -> None:
        """Ask once: what has begun to come is not asked for again."""
        url, told = f"{self.random.choice(self.urls)}/v1/chat/completions", Told()
        if not await self._read(told, "POST", url, json=body):
            return
        self.ledger.chats += told.done
        self.ledger.streams += told.done
        for fault in told.faults([*_answers(prompt), DEGRADED]):
            self.ledger.problem(f"a chat asked {prompt!r} as a stream: {fault}")

    async def _batches(self) -> None:
        prompts = [self.prompt("line") for _ in range(BATCH_LINES)]
        content = jsonl([line(f"c{n}", prompt) for n, prompt in enumerate(prompts)])
        files = {"file": ("in.jsonl", content), "purpose": (None, "batch")}
        uploaded = await self.send("POST", "/v1/files", files=files)
        if uploaded is None or uploaded.status_code != 200:
            return
        body = {
            "input_file_id": uploaded.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        made = await self.send("POST", "/v1/batches", json=body)
        if made is not None and made.status_code == 200:
            await self._follow(self.ledger.accept("batch", made.json()["id"], prompts))

    async def _see_batch(self, item: Accepted, shown: dict[str, Any]) -> None:
        """Read both files of a batch that has ended: every line once, and counted so."""
        lines: list[list[dict[str, Any]]] = []
        for name in ("output_file_id", "error_file_id"):
            reply = None
            while shown[name] and (reply is None or reply.status_code != 200):
                reply = await self._get(f"/v1/files/{shown[name]}/content")
                if reply is not None and reply.status_code == 404:
                    self.ledger.problem(f"{item.id}: its file {shown[name]} is not found")
                    break
            lines.append([json.loads(text) for text in reply.text.splitlines()] if reply else [])
        output, errors = lines
        ids = Counter(each["custom_id"] for each in output + errors)
        counts = shown["request_counts"]
        self.ledger.see(item, (shown["status"], sorted(ids.items()), counts))
        expected = Counter(f"c{n}" for n in range(len(item.prompts)))
        if ids != expected:
            self.ledger.problem(
                f"{item.id}: its lines are {ids - expected} too many, {expected - ids} too few"
            )
        told = (counts["total"], counts["completed"], counts["failed"])
        if told != (len(item.prompts), len(output), len(errors)):
            self.ledger.problem(
                f"{item.id}: {len(output)} + {len(errors)} lines, counted as {told}"
            )
        for each in output:
            text = each["response"]["body"]["choices"][0]["message"]["content"]
            prompt = item.prompts[int(each["custom_id"][1:])]
            if not text.endswith(f": {prompt}"):
                self.ledger.problem(f"{item.id}: asked {prompt!r} and was answered {text!r}")

    async def probe(self, seconds: float) -> bool:
        """Create jobs until one of them is final; return whether one was, in so many seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            url, prompt = self.random.choice(self.urls), self.prompt("probe")
            try:
                reply = await self.http.post(f"{url}/v1/jobs", json={"prompt": prompt}, timeout=3)
            except httpx.TransportError:
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            self._check_status("POST", "/v1/jobs", reply)
            if reply.status_code != 202:
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            item = self.ledger.accept("job", reply.json()["id"], [prompt])
            await asyncio.wait([self._spawn(self._follow(item))], timeout=until - time.monotonic())
            return item.final_at is not None
        return False


def _answers(prompt: str) -> list[str]:
    """Return what a model may say to a prompt."""
    return [f"{model}: {prompt}" for model in MODELS]


def _delay(tried: int, reply: httpx.Response | None, chance: random.Random) -> float:
    """Return the seconds until the next try, as the SDK counts them: its longest at most."""
    told = reply.headers.get("retry-after") if reply is not None else None
    if told and told.isdigit():
        return min(float(told), 8.0)
    return min(0.5 * 2**tried, 8.0) * (1 - 0.25 * chance.random())
