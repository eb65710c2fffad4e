"""The engine of a real fleet is told whose calls come first."""

from __future__ import annotations

import openai
from harness.batches import check_every_line_once, ended, line, start


def test_lone_requests_come_before_lines_and_lines_by_their_batchs_priority(fleet, gpu):
    api, _ = fleet.start(fleet.api(), fleet.worker(gpu_priority="vllm"))
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as sdk:
        for priority in ("high", "low"):
            batch = start(sdk, [line("a", priority)], metadata={"priority": priority})
            check_every_line_once(sdk, ended(sdk, batch.id), ["a"])
        batch = start(sdk, [line("a", "usual")])
        check_every_line_once(sdk, ended(sdk, batch.id), ["a"])
        hello = [{"role": "user", "content": "lone"}]
        sdk.chat.completions.create(model="gpu-model", messages=hello)
    told = {call.prompt: call.body["priority"] for call in gpu.calls}
    assert told == {"lone": 0, "high": 1, "usual": 2, "low": 3}
