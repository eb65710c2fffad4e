"""The OpenAPI document, made from the routes and the wire schemas, and the page that shows it."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from api import tiers
from api.errors import json_response
from api.routing import EVENT_STREAM, JSON, Description, Route, Undescribed
from api.schemas import ErrorEnvelope
from api.services import ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from msgspec import Struct
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from api.routing import Schema

# Its URLs are relative, so that a proxy may serve all of the API under a path.
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Fallthrough API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/static/swagger-ui.css"></head><body><div id="ui"></div>
<script src="docs/static/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "openapi.json", dom_id: "#ui"})</script></body></html>"""
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ABOUT = (
    "A job pipeline in front of your own LLM servers. A request is answered by the first tier that "
    "can: GPU, CPU, the cache; or by a message that says it is degraded. Chat completions, "
    "completions, embeddings, files and batches are as in OpenAI's API. Every path under /v1 is "
    "there without /v1 too."
)
KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key. Without FALLTHROUGH_API_KEYS the server asks for none.",
}
OPEN = frozenset({"/health", "/health/ready"})  # no key is asked for
OPERATIONS = "Operations"
TAGS = {
    "Chat and embeddings": ("/v1/chat", "/v1/completions", "/v1/embeddings", "/v1/models"),
    "Jobs": ("/v1/jobs",),
    "Files": ("/v1/files",),
    "Batches": ("/v1/batches",),
}
_HELLO = [{"role": "user", "content": "Hello"}]
# Bodies that the page offers: each works as it is, but for ids, which are the caller's own.
EXAMPLES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/jobs"): {"prompt": "Hello", "max_tokens": 64, "cache": "first"},
    ("POST", "/v1/chat/completions"): {"messages": _HELLO, "max_tokens": 64},
    ("POST", "/v1/completions"): {"prompt": "Hello", "max_tokens": 64},
    ("POST", "/v1/embeddings"): {"model": "embedder", "input": "Hello"},
    ("POST", "/v1/batches"): {
        "input_file_id": "file-0123abcd",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"priority": "normal"},
    },
    ("POST", "/v1/validations"): {"input_file_id": "file-0123abcd"},
    **{
        ("POST", f"/circuit-breakers/{{name}}/{action}"): {"why": "maintenance"}
        for action in ("open", "disable", "auto", "reset")
    },
}
REFERENCE = "#/components/schemas/{name}"


# What any route may answer, or the server in its place. A 500 is a defect, and is none of these.
COMMON = {
    "400": "the request does not fit: the message names what, and param the field",
    "401": "no valid API key",
    "403": "not an admin's key; without keys: a host or a page's origin that is not ours",
    "408": "the request took too long to arrive",
    "414": "the URL is too long",
    "429": "too much at once: try again after Retry-After seconds",
    "431": "the head is too large",
    "503": "the store, the broker or the storage is away, or the server stops: try again later",
}
NOT_THERE = {"404": "there is no such thing, or it is another's"}
OF_A_BODY = {"413": "the body is too large", "415": "the body is packed: send it as it is"}
TEXT = {"type": "string"}
PLAIN = frozenset({"text/plain", "application/openmetrics-text", "application/octet-stream"})
EVENT = {"type": "object", "properties": {"data": TEXT}, "required": ["data"]}  # of a stream
RETRY = {"Retry-After": "seconds", "retry-after-ms": "the same in milliseconds"}
REQUEST_ID = {"description": "names this request in the logs, and in what is asked upstream"}
NAMES = {"id": {"type": "string", "pattern": f"^{ID}$"}}  # others of a path are any text


def _content(schema: Schema, *media_types: str) -> dict[str, Any]:
    """Return content of these types; the schema is that of JSON and of forms."""
    schemas = {**dict.fromkeys(PLAIN, TEXT), EVENT_STREAM: EVENT}
    types = media_types or (JSON,)
    return {"content": {each: {"schema": schemas.get(each, schema)} for each in types}}


def _parameters(route: Route, description: Description) -> list[dict[str, Any]]:
    path = {name: NAMES.get(name, TEXT) for name in route.param_convertors}
    places = {"query": description.query, "header": description.headers, "path": path}
    return [
        {"name": name, "in": place, "required": place == "path", "schema": schema}
        for place, schemas in places.items()
        for name, schema in schemas.items()
    ]


def _headers(about: Mapping[str, str]) -> dict[str, Any]:
    headers = {name: {"description": text, "schema": TEXT} for name, text in about.items()}
    return {**headers, "x-request-id": {**REQUEST_ID, "required": True, "schema": TEXT}}


def _error(status: str, about: Schema | str) -> dict[str, Any]:
    """Return a response that is an error, or something else if there is a schema of that."""
    if not isinstance(about, str):
        content = _content({"anyOf": [about, ErrorEnvelope]})
        return {"description": "not now", "headers": _headers({}), **content}
    headers = _headers(RETRY if status in {"429", "503"} else {})
    return {"description": about, "headers": headers, **_content(ErrorEnvelope)}


def _operation(route: Route, description: Description) -> dict[str, Any]:
    """Return a route as an operation; Structs are still in it."""
    errors = {**COMMON, **description.errors}
    if route.param_convertors:
        errors = {**NOT_THERE, **errors}
    if description.body:
        errors = {**OF_A_BODY, **errors}
    headers = _headers(description.answer_headers)
    content = _content(description.answer, *description.answer_types)
    answer = {"description": "done", "headers": headers, **content}
    failures = {status: _error(status, errors[status]) for status in sorted(errors)}
    operation: dict[str, Any] = {
        "tags": [_tag(route.path_format)],
        "summary": description.summary,
        "parameters": _parameters(route, description),
        "responses": {str(description.status): answer, **failures},
    }
    if description.body:
        body = _content(description.body, description.body_type)
        if (example := EXAMPLES.get((route.method, route.path_format))) is not None:
            body["content"][description.body_type]["example"] = example
        if description.body_encoding:
            body["content"][description.body_type]["encoding"] = description.body_encoding
        operation["requestBody"] = {"required": description.body_required, **body}
    if route.path_format in OPEN:
        operation["security"] = []
    return operation


def _tag(path: str) -> str:
    return next((tag for tag, begins in TAGS.items() if path.startswith(begins)), OPERATIONS)


def _paths(routes: Iterable[BaseRoute]) -> dict[str, dict[str, Any]]:
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if isinstance(route, Route) and isinstance(route.description, Description):
            operations = paths.setdefault(route.path_format, {})
            operations[route.method.lower()] = _operation(route, route.description)
    return paths


@cache
def document(app: Starlette) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of an application."""
    structs: list[type[Struct]] = []

    def reference(struct: type[Struct]) -> dict[str, str]:
        structs.append(struct)
        return {"$ref": REFERENCE.format(name=struct.__name__)}

    paths = msgspec.to_builtins(_paths(app.routes), enc_hook=reference)
    _, schemas = msgspec.json.schema_components(
        structs, ref_template=REFERENCE, schema_hook=lambda _: {}
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Fallthrough", "version": version("fallthrough"), "description": ABOUT},
        "servers": [{"url": ".", "description": "where this document is"}],
        "tags": [{"name": tag} for tag in (*TAGS, OPERATIONS)],
        "security": [{"key": []}, {}],  # a server without keys takes who has none
        "paths": paths,
        "components": {
            "schemas": {**schemas, **tiers.schemas(app.state.tier_names)},
            "securitySchemes": {"key": KEY},
        },
    }


async def openapi(request: Request) -> Response:
    """GET /openapi.json."""
    return json_response(document(request.app))


async def docs(_: Request) -> Response:
    """GET /docs."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": CONTENT_POLICY})


def _static() -> Path:
    # The package is a carrier of Swagger UI's files; nothing of it is run.
    if find_spec("swagger_ui") is None:
        message = "the package swagger-ui-py is not installed"
        raise ModuleNotFoundError(message)
    return Path(str(files("swagger_ui") / "static"))


def routes() -> list[BaseRoute]:
    """Return the routes; the document describes none of them."""
    return [
        Route("GET", "/openapi.json", openapi, Undescribed.DOCUMENT),
        Route("GET", "/docs", docs, Undescribed.PAGE),
        Mount("/docs/static", StaticFiles(directory=_static())),
    ]
