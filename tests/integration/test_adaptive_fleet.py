"""A fleet whose limit adapts: a batch on an engine that turns away what is too much."""

from __future__ import annotations

import httpx
import openai
from harness.batches import check_every_line_once, ended, line, start
from harness.waiting import wait_until
from prometheus_client.parser import text_string_to_metric_families as families

SLOTS = 8


def limit_of(api):
    reply = httpx.get(f"{api.url}/metrics", headers={"accept": "text/plain"})
    for family in families(reply.text):
        for sample in family.samples:
            if sample.name == "fallthrough_tier_limit" and sample.labels == {"tier": "gpu"}:
                return sample.value
    return None


def test_a_batch_runs_at_what_the_engine_bears_and_few_lines_are_turned_away(fleet, gpu, cpu):
    turned = []

    def plan(call):
        if gpu.running <= SLOTS:
            return "ok"
        turned.append(call.prompt)
        return "too-many"

    gpu.plan, gpu.delay = plan, 0.05
    workers = [fleet.worker("batch", gpu_limit="2..64", slice_lines=16) for _ in range(2)]
    api, *_ = fleet.start(fleet.api(), *workers)
    lines = [line(f"c{n}", str(n)) for n in range(800)]
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as sdk:
        batch = start(sdk, lines)
        wait_until(lambda: (limit_of(api) or 0) > SLOTS // 2, 60)
        batch = ended(sdk, batch.id)
        answers, _ = check_every_line_once(sdk, batch, [f"c{n}" for n in range(800)])
    assert len(answers) == 800
    assert len(turned) < len(gpu.calls) / 5
    assert gpu.most_running <= 3 * SLOTS, "it doubles once"
    assert limit_of(api) < 2 * SLOTS, "of which one is left to lone requests"
