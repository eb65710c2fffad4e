"""Embeddings, as OpenAI's clients ask for them: of the very model that is named, or none."""

from __future__ import annotations

from api.chat import answering, described
from api.routing import Route, list_of, object_of
from fallback_chain import Endpoint


def routes() -> list[Route]:
    """Return the routes."""
    vector = {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}]}
    answer = list_of(object_of(embedding=vector))
    summary = "Embed texts now, by the model that is named"
    description = described(Endpoint.EMBEDDINGS, summary, answer)
    endpoint = Endpoint.EMBEDDINGS
    return [Route("POST", endpoint.value, answering(endpoint), description)]
