"""Commands whose answers are lost on their way: what they create is there once."""

from __future__ import annotations

import json
from collections import Counter

import httpx
import pytest
from harness.commands import run
from harness.stub_api import HANG_UP, StubApi

PROMPTS = ["one of them", "another"]


class Losing(StubApi):
    """Leads to an API, and loses its first answer to each POST. how: what its client sees."""

    def __init__(self, url, how):
        self._http, self._how = httpx.Client(base_url=url, timeout=60), how
        self.lost = []
        super().__init__()

    def answer(self, path):
        method, _, headers, body = self.requests[-1]
        kept = {k: v for k, v in headers.items() if k in {"content-type", "idempotency-key"}}
        reply = self._http.request(method, path, headers=kept, content=body)
        if method == "POST" and path not in self.lost:
            assert reply.is_success, reply.text
            self.lost.append(path)
            return self._how
        return reply.status_code, reply.content

    def vanish(self):
        super().vanish()
        self._http.close()


@pytest.fixture
def api(fleet):
    [api, *_] = fleet.start(fleet.api(), fleet.worker("interactive"), fleet.worker("batch"))
    return api


LOST = {
    "hangs up": (0, HANG_UP),
    "a proxy's 502": (502, b"<h1>Bad Gateway</h1>"),
    "a proxy's 504": (504, b"<h1>Gateway Timeout</h1>"),
}
COMMANDS = {"submit": ["/v1/jobs"], "batch": ["/v1/files", "/v1/batches"]}


@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_creates_is_there_once(api, gpu, tmp_path, command, how):
    before = Counter(gpu.prompts())
    prompts, results = tmp_path / "p.txt", tmp_path / "r.jsonl"
    prompts.write_text("\n".join(f"{prompt} {command} {how}" for prompt in PROMPTS))
    losing = Losing(api.url, LOST[how])
    try:
        done = run(command, str(prompts), "--output", str(results), "--url", losing.url)
    finally:
        losing.vanish()
    assert done.returncode == 0, done.stderr
    assert losing.lost == COMMANDS[command]
    assert len(results.read_text().splitlines()) == len(PROMPTS)
    assert "trying again" in done.stderr
    asked = Counter(gpu.prompts()) - before
    assert asked == Counter(prompts.read_text().splitlines())
    sent = [each for each in losing.requests if each.method == "POST"]
    assert [each.path for each in sent] == [path for path in losing.lost for _ in range(2)]
    for first, second in zip(sent[::2], sent[1::2], strict=True):
        assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


def test_a_batch_is_retried_once(api, gpu, cpu, tmp_path):
    gpu.mode = cpu.mode = "400"
    prompts = tmp_path / "p.txt"
    prompts.write_text("refused")
    batch = json.loads(run("batch", str(prompts), "--json", "--url", api.url).stdout)
    losing = Losing(api.url, LOST["hangs up"])
    try:
        done = run("batch", "retry", batch["id"], "--detach", "--url", losing.url)
    finally:
        losing.vanish()
    assert done.returncode == 0, done.stderr
    listed = httpx.get(f"{api.url}/v1/batches").json()["data"]
    assert [each["id"] for each in listed] == [done.stdout.strip(), batch["id"]]
