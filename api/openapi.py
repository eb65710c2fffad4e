"""The OpenAPI document, made from the wire schemas, and the page that shows it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from api.batches import BatchObject, BatchRequest
from api.errors import json_response
from api.routing import Route
from api.schemas import ErrorEnvelope, Handling, JobObject, JobRequest, Sampling

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Fallthrough API</title>
<link rel="stylesheet" href="/docs/static/swagger-ui.css"></head><body><div id="ui"></div>
<script src="/docs/static/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui"})</script></body></html>"""


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _operation(  # noqa: PLR0913 - one operation is these
    summary: str,
    answer: dict[str, Any],
    *,
    status: int = 200,
    body: dict[str, Any] | None = None,
    path: str | None = None,
    query: dict[str, str] | None = None,
) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "query", "description": about, "schema": {"type": "string"}}
        for name, about in (query or {}).items()
    ]
    if path:
        schema = {"type": "string"}
        parameters.append({"name": path, "in": "path", "required": True, "schema": schema})
    error = {"description": "an error in OpenAI's envelope", **_json(_ref("ErrorEnvelope"))}
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": parameters,
        "responses": {str(status): {"description": "done", **_json(answer)}, "default": error},
    }
    if body:
        operation["requestBody"] = {"required": True, **_json(body)}
    return operation


def _upload() -> dict[str, Any]:
    operation = _operation("Upload a batch's input, up to 200 MB", {"type": "object"})
    fields = {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["batch"]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer"},
    }
    schema = {"type": "object", "properties": fields, "required": ["file", "purpose"]}
    operation["requestBody"] = {
        "required": True,
        "content": {"multipart/form-data": {"schema": schema}},
    }
    return operation


def _paths() -> dict[str, Any]:
    job, batch, anything = _ref("JobObject"), _ref("BatchObject"), {"type": "object"}
    many = {"type": "object", "properties": {"requests": {"type": "array"}}}
    chat = {
        "allOf": [
            _ref("Sampling"),
            {"type": "object", "properties": {"fallthrough": _ref("Handling")}},
        ]
    }
    return {
        "/v1/jobs": {
            "post": _operation(
                "Submit one request, or up to 1 000 under requests",
                job,
                status=202,
                body={"anyOf": [_ref("JobRequest"), many]},
            ),
            "get": _operation(
                "List jobs, newest first",
                {"type": "object", "properties": {"data": {"type": "array", "items": job}}},
                query={"limit": "1 to 100, default 20", "after": "id of the last job seen"},
            ),
        },
        "/v1/jobs/{id}": {
            "get": _operation(
                "Poll a job", job, path="id", query={"wait": "seconds to wait for it, up to 60"}
            )
        },
        "/v1/jobs/{id}/cancel": {"post": _operation("Cancel a job", job, path="id")},
        "/v1/chat/completions": {
            "post": _operation("Answer now, through the same chain", anything, body=chat)
        },
        "/v1/files": {
            "post": _upload(),
            "get": _operation(
                "List files, newest first",
                anything,
                query={
                    "limit": "1 to 10000, which is the default",
                    "after": "id of the last file seen",
                    "order": "desc, or asc: oldest first",
                    "purpose": "batch or batch_output: only those",
                },
            ),
        },
        "/v1/files/{id}": {
            "get": _operation("Describe a file", anything, path="id"),
            "delete": _operation("Delete a file", anything, path="id"),
        },
        "/v1/files/{id}/content": {"get": _operation("Download a file", anything, path="id")},
        "/v1/batches": {
            "post": _operation(
                "Create a batch from an uploaded file", batch, body=_ref("BatchRequest")
            ),
            "get": _operation(
                "List batches, newest first",
                {"type": "object", "properties": {"data": {"type": "array", "items": batch}}},
                query={"limit": "1 to 100, default 20", "after": "id of the last batch seen"},
            ),
        },
        "/v1/batches/{id}": {"get": _operation("Follow a batch", batch, path="id")},
        "/v1/batches/{id}/cancel": {"post": _operation("Cancel a batch", batch, path="id")},
        "/v1/batches/{id}/results": {
            "get": _operation(
                "Read finished lines, while it runs and after",
                anything,
                path="id",
                query={"after": "the page before's next", "limit": "1 to 1000, default 100"},
            )
        },
        "/v1/models": {"get": _operation("List the tiers' models", anything)},
        "/health": {"get": _operation("Alive", anything)},
        "/health/ready": {"get": _operation("Ready for requests", anything)},
        "/circuit-breakers": {"get": _operation("The breakers that the fleet shares", anything)},
        "/circuit-breakers/{name}/reset": {
            "post": _operation("Close a breaker for the whole fleet", anything, path="name")
        },
        "/metrics": {"get": _operation("Counts and latencies of the fleet", anything)},
    }


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    structs = (
        *(JobRequest, JobObject, Sampling, Handling, ErrorEnvelope),
        *(BatchRequest, BatchObject),
    )
    _, schemas = msgspec.json.schema_components(
        structs, ref_template="#/components/schemas/{name}", schema_hook=lambda _: {}
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Fallthrough", "version": "1"},
        "paths": _paths(),
        "components": {"schemas": schemas},
    }


async def openapi(_: Request) -> Response:
    """GET /openapi.json."""
    return json_response(document())


async def docs(_: Request) -> Response:
    """GET /docs."""
    return HTMLResponse(PAGE)


def _static() -> Path:
    # The package is a carrier of Swagger UI's files; nothing of it is run.
    if find_spec("swagger_ui") is None:
        message = "the package swagger-ui-py is not installed"
        raise ModuleNotFoundError(message)
    return Path(str(files("swagger_ui") / "static"))


def routes() -> list[BaseRoute]:
    """Return the routes."""
    return [
        Route("/openapi.json", openapi, methods=["GET"]),
        Route("/docs", docs, methods=["GET"]),
        Mount("/docs/static", StaticFiles(directory=_static())),
    ]
