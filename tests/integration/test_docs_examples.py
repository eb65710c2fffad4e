"""Each example body that /docs offers works as it is; ids and the embedder are the caller's own."""

from __future__ import annotations

import httpx
import pytest
from harness.batches import jsonl, line

from api.app import create_app
from api.openapi import EXAMPLES, document
from tasks.settings import Settings


@pytest.fixture(scope="module")
def http(module_fleet):
    api, _ = module_fleet.start(module_fleet.api(), module_fleet.worker())
    with httpx.Client(base_url=api.url, timeout=60) as client:
        yield client


def test_every_json_body_has_an_example_and_the_page_knows_of_keys():
    whole = document(create_app(Settings()))
    bodies = {
        (method.upper(), path): content.get("example")
        for path, operations in whole["paths"].items()
        for method, operation in operations.items()
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
        if kind == "application/json"
    }
    assert bodies == EXAMPLES
    assert whole["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    named = {tag["name"] for tag in whole["tags"]}
    used = {tag for each in whole["paths"].values() for o in each.values() for tag in o["tags"]}
    assert used == named


@pytest.mark.parametrize("place", EXAMPLES, ids=" ".join)
def test_an_example_works_as_it_is_offered(http, place):
    method, path = place
    body = dict(EXAMPLES[place])
    if "input_file_id" in body:
        form = {"file": ("in.jsonl", jsonl([line("a", "x")]))}
        file = http.post("/v1/files", data={"purpose": "batch"}, files=form).json()
        body["input_file_id"] = file["id"]
    if path == "/v1/embeddings":  # the model is the caller's own as well
        body["model"] = "gpu-model"
    name = next(iter(http.get("/circuit-breakers").json()["circuit_breakers"]))
    reply = http.request(method, path.replace("{name}", name), json=body)
    assert reply.status_code in {200, 202}, reply.text
    if "open" in path or "disable" in path:  # for whoever comes next
        http.post(f"/circuit-breakers/{name}/auto")
        http.post(f"/circuit-breakers/{name}/reset")
