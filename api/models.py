"""The models that the tiers serve, as OpenAI's clients list them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from api.errors import json_response, not_found
from api.routing import Description, Route, list_of, object_of
from api.services import Services, services_of
from fallback_chain import UpstreamError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

MODELS_SECONDS = 2.0  # that a tier gets to list its models


async def list_models(request: Request) -> Response:
    """GET /v1/models: what the tiers serve now; a tier that is away is left out."""
    data = await _served(services_of(request))
    return json_response({"object": "list", "data": list(data.values())})


async def get(request: Request) -> Response:
    """GET /v1/models/{model}: one of these; its name may have slashes."""
    name: str = request.path_params["model"]
    if not name:  # /v1/models/
        return await list_models(request)
    data = await _served(services_of(request))
    if name not in data:
        raise not_found("model", name)
    return json_response(data[name])


async def _served(services: Services) -> dict[str, dict[str, Any]]:
    """Return the models by name, in the order of the tiers; the first tier that has one owns it."""
    models_by_tier = await asyncio.gather(*(_models_of(services, name) for name in services.tiers))
    served: dict[str, dict[str, Any]] = {}
    for tier, names in models_by_tier:
        for model in names:
            about = {"id": model, "object": "model", "created": int(time.time()), "owned_by": tier}
            served.setdefault(model, about)
    return served


async def _models_of(services: Services, name: str) -> tuple[str, list[str]]:
    tier = services.tiers[name]
    try:
        async with asyncio.timeout(MODELS_SECONDS):
            names = await tier.models()
    except (UpstreamError, TimeoutError):
        names = []
    own = [tier.config.model] if tier.config.model else []
    return name, own + [model for model in names if model not in own]


def routes() -> list[Route]:
    """Return the routes."""
    model = object_of(id={"type": "string"}, object={"const": "model"})
    listing = Description("List the tiers' models", list_of(model))
    one = Description("Describe one of the tiers' models", model)
    return [
        Route("GET", "/v1/models", list_models, listing),
        Route("GET", "/v1/models/{model:path}", get, one),
    ]
