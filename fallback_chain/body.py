"""The body of a request: its JSON, of which no more is kept than was asked for. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from fallback_chain.needs import Needs
from fallback_chain.urgency import Urgency
from fallback_chain.vectors import count_of

if TYPE_CHECKING:
    from collections.abc import Mapping

DROPPED = ("stream", "stream_options")  # the pipeline wants whole answers


class Endpoint(StrEnum):
    """What a model server may be asked for, by its path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"


_whole = msgspec.json.Decoder(dict[str, Any]).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Body:
    """What goes to a model server.

    Of four megabytes of empty lists ninety are made as they are decoded: who holds many bodies
    holds their bytes. Whatever reads one raises msgspec.DecodeError, UnicodeDecodeError or
    RecursionError if it is no JSON object.
    """

    __slots__ = ("_inputs", "_model", "_needs", "content", "urgency")

    def __init__(self, content: bytes, urgency: Urgency = Urgency.INTERACTIVE) -> None:
        """urgency: of whoever waits for the answer."""
        self.content, self.urgency = content, urgency
        self._needs: Needs | None = None
        self._model: str | None = None
        self._inputs = 1

    @staticmethod
    def of(body: Body | Mapping[str, Any]) -> Body:
        """Return fields as a body; raises TypeError for what JSON does not know."""
        if isinstance(body, Body):
            return body
        made = Body(msgspec.json.encode(body))
        made._model = _text(body.get("model"))
        return made

    def decoded(self) -> dict[str, Any]:
        """Return all of it."""
        return _whole(self.content)

    @property
    def needs(self) -> Needs:
        """What it needs of a model; read once."""
        if self._needs is None:
            self._needs = self._read()
        return self._needs

    @property
    def model(self) -> str:
        """The model that it names; empty: none."""
        if self._model is None:
            self._needs = self._read()
        return self._model or ""

    @property
    def inputs(self) -> int:
        """How many texts it wants embedded."""
        _ = self.needs  # which reads it
        return self._inputs

    def _read(self) -> Needs:
        body = self.decoded()
        self._model, self._inputs = _text(body.get("model")), count_of(body.get("input"))
        return Needs.of(body)

    def sent(self, model: str | None, more: Mapping[str, Any] | None = None) -> bytes:
        """Return what goes to a server that is to use this model; None: as it is named.

        more: further fields, of ours.
        """
        fields = _fields(self.content)
        for name in DROPPED:
            fields.pop(name, None)
        if model is not None:
            fields["model"] = msgspec.Raw(msgspec.json.encode(model))
        for name, value in (more or {}).items():
            fields[name] = msgspec.Raw(msgspec.json.encode(value))
        return msgspec.json.encode(fields)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
