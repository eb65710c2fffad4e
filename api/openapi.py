"""The OpenAPI document, made from the routes and the wire schemas, and the page that shows it."""

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

from api.errors import json_response
from api.routing import JSON, Description, Route, Undescribed
from api.schemas import ErrorEnvelope

if TYPE_CHECKING:
    from collections.abc import Iterable

    from msgspec import Struct
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from api.routing import Schema

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Fallthrough API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/static/swagger-ui.css"></head><body><div id="ui"></div>
<script src="/docs/static/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui"})</script></body></html>"""
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REFERENCE = "#/components/schemas/{name}"


def _content(schema: Schema, media_type: str = JSON) -> dict[str, Any]:
    return {"content": {media_type: {"schema": schema}}}


def _operation(route: Route, description: Description) -> dict[str, Any]:
    """Return a route as an operation; Structs are still in it."""
    text = {"type": "string"}
    query = [
        {"name": name, "in": "query", "description": about, "schema": text}
        for name, about in description.query.items()
    ]
    path = [
        {"name": name, "in": "path", "required": True, "schema": text}
        for name in route.param_convertors
    ]
    answer = {"description": "done", **_content(description.answer or {"type": "object"})}
    error = {"description": "an error in OpenAI's envelope", **_content(ErrorEnvelope)}
    operation: dict[str, Any] = {
        "summary": description.summary,
        "parameters": query + path,
        "responses": {str(description.status): answer, "default": error},
    }
    if description.body:
        body = _content(description.body, description.body_type)
        operation["requestBody"] = {"required": True, **body}
    return operation


def _paths(routes: Iterable[BaseRoute]) -> dict[str, dict[str, Any]]:
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if isinstance(route, Route) and isinstance(route.description, Description):
            operations = paths.setdefault(route.path, {})
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
        "info": {"title": "Fallthrough", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas},
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
