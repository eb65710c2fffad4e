"""What a request needs of the model that answers it, and what a tier declares that it can. Pure.

Bodies are untrusted JSON: a field of a wrong type says nothing, and nothing here raises on one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class Need(StrEnum):
    """One thing that not every model server can do."""

    SCHEMA = "schema"  # an answer of a given form: a JSON schema; also a regex, a grammar, a choice
    JSON = "json"
    TOOLS = "tools"
    IMAGES = "images"
    AUDIO = "audio"
    VIDEO = "video"
    FILES = "files"
    N = "n"  # several choices
    LOGPROBS = "logprobs"
    EMBEDDINGS = "embeddings"  # of a tier: these, and nothing else


UNREADABLE = ""  # stands for a schema that is there, but cannot be written as JSON
TEXT = "text"  # the word of a setting for "no need at all"
CHAT = "chat"  # what a tier lacks that embeds, and does nothing else

_PARTS = {
    "image_url": Need.IMAGES,
    "input_image": Need.IMAGES,
    "input_audio": Need.AUDIO,
    "audio_url": Need.AUDIO,
    "video_url": Need.VIDEO,
    "file": Need.FILES,
    "input_file": Need.FILES,
}
# The forms that are no JSON: vLLM's, its older ones, llama.cpp's and SGLang's.
_STRUCTURED = ("regex", "choice", "grammar", "structural_tag")
_GRAMMARS = ("guided_regex", "guided_choice", "guided_grammar", "grammar", "regex", "ebnf")
_LOGPROBS = ("logprobs", "prompt_logprobs")
_FORMS = frozenset({Need.SCHEMA, Need.JSON})
ONLY_EMBEDDINGS = frozenset({Need.EMBEDDINGS})
_CHECKABLE = _FORMS | {Need.TOOLS}
_MEDIA = frozenset({Need.IMAGES, Need.AUDIO, Need.VIDEO, Need.FILES})
_REQUIRED = ("required", "any")  # any: Mistral's word for it

_WORDED = frozenset({"messages", "prompt"})  # what a request for words has
# A body with none of these needs at most what its messages hold.
_TELLING = frozenset(
    (
        *("response_format", "structured_outputs", "guided_json", "json_schema", *_GRAMMARS),
        *("tools", "functions", "modalities", "n", "best_of", "top_logprobs", *_LOGPROBS),
    )
)


class Needs(msgspec.Struct, frozen=True):
    """What a request needs, and what the check of its answer (fit.check) has to know."""

    kinds: frozenset[Need] = frozenset()
    schema: str | None = None  # of the whole answer, as JSON; None: any JSON does
    other_form: bool = False  # a form is demanded that is no JSON
    tools: Mapping[str, str | None] = {}  # what may be called; the schema of strict arguments
    call_required: bool = False
    embeds: bool = False  # it wants vectors, not words
    bare_tools: frozenset[str] = frozenset()  # of those, what may be called without arguments

    @staticmethod
    def of(body: Mapping[str, Any]) -> Needs:
        """Read the body of a request, whatever it asks."""
        if not isinstance(body, dict):
            return NOTHING
        if "input" in body and _WORDED.isdisjoint(body):
            return VECTORS
        kinds = _media(body.get("messages"))
        if _TELLING.isdisjoint(body):
            return Needs(frozenset(kinds)) if kinds else NOTHING
        form, tools = _form(body), _tools(body)
        kinds |= form.kinds
        if tools.declared:
            kinds.add(Need.TOOLS)
        if "audio" in _list(body.get("modalities")):
            kinds.add(Need.AUDIO)
        if _number(body.get("n")) > 1 or _number(body.get("best_of")) > 1:
            kinds.add(Need.N)
        if _number(body.get("top_logprobs")) > 0 or any(map(_logprobs, map(body.get, _LOGPROBS))):
            kinds.add(Need.LOGPROBS)
        return Needs(
            frozenset(kinds),
            form.schema,
            form.other,
            tools.names,
            tools.required,
            bare_tools=tools.bare,
        )

    @property
    def strict_form(self) -> bool:
        """Whether the request demands a form: then no message of ours can answer it."""
        return self.call_required or not self.kinds.isdisjoint(_FORMS)

    @property
    def checkable(self) -> bool:
        """Whether there is anything to check in an answer."""
        return not self.kinds.isdisjoint(_CHECKABLE)

    @property
    def has_media(self) -> bool:
        """Whether its server has more to fetch, or to decode, than words."""
        return not self.kinds.isdisjoint(_MEDIA)


NOTHING = Needs()
VECTORS = Needs(embeds=True)


def parse_accepts(text: str) -> frozenset[Need] | None:
    """Read what a tier accepts: "" is anything (None), "text" no need at all, "json,tools" those.

    Raises ValueError, with one line that names the known words, for any other word; and for
    "embeddings" beside others.
    """
    if not text.strip():
        return None
    words = [word.strip().lower() for word in text.split(",")]
    known = [TEXT, *Need]
    for word in words:
        if word not in known:
            raise ValueError(f"{word!r} is not one of {', '.join(known)}")  # noqa: EM102, TRY003
    if Need.EMBEDDINGS in words and set(words) != ONLY_EMBEDDINGS:
        raise ValueError(f"{Need.EMBEDDINGS} stands alone")  # noqa: EM102, TRY003
    return frozenset(Need(word) for word in words if word != TEXT)


def lacks(needs: Needs, accepts: frozenset[Need] | None) -> list[str]:
    """Return the needs that a tier does not meet, in Need's order. accepts: None is all."""
    if accepts is None or needs.embeds:  # whether it embeds is its models' to say
        return []
    if accepts == ONLY_EMBEDDINGS:
        return [CHAT]
    return [need for need in Need if need in needs.kinds and need not in accepts]


def _media(messages: Any) -> set[Need]:
    kinds = set()
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind in _PARTS:
                kinds.add(_PARTS[kind])
    return kinds


class _Form(NamedTuple):
    kinds: frozenset[Need] = frozenset()
    schema: str | None = None
    other: bool = False


_NO_FORM = _Form()
_ANY_JSON = _Form(frozenset({Need.JSON}))
_OTHER_FORM = _Form(frozenset({Need.SCHEMA}), other=True)


def _form(body: dict[str, Any]) -> _Form:
    """Return the form that the answer must have; the first that is named counts."""
    structured = _dict(body.get("structured_outputs"))
    form = _response_format(_dict(body.get("response_format")))
    if form is not _NO_FORM:
        return form
    for schema in (structured.get("json"), body.get("guided_json"), body.get("json_schema")):
        if isinstance(schema, dict | str):
            return _schema_form(schema)
    if any(map(structured.get, _STRUCTURED)) or any(map(body.get, _GRAMMARS)):
        return _OTHER_FORM
    return _ANY_JSON if structured.get("json_object") is True else _NO_FORM


def _response_format(said: dict[str, Any]) -> _Form:
    kind = said.get("type")
    if kind == "json_schema":  # OpenAI's, or with the schema beside the type
        return _schema_form(_dict(said.get("json_schema")).get("schema", said.get("schema")))
    if kind == "json_object":  # llama.cpp and others take a schema beside it
        schema = said.get("schema")
        return _ANY_JSON if schema is None else _schema_form(schema)
    return _OTHER_FORM if isinstance(kind, str) and kind != TEXT else _NO_FORM


def _schema_form(schema: Any) -> _Form:
    return _Form(frozenset({Need.SCHEMA}), None if schema is None else _json(schema))


class _Tools(NamedTuple):
    declared: bool = False
    names: Mapping[str, str | None] = {}
    required: bool = False
    bare: frozenset[str] = frozenset()


def _tools(body: dict[str, Any]) -> _Tools:
    """Return what may be called; a choice of one tool leaves only that."""
    functions = [_function(tool) for tool in _list(body.get("tools")) if isinstance(tool, dict)]
    choice = body.get("tool_choice")
    if not functions:
        functions = [it for it in _list(body.get("functions")) if isinstance(it, dict)]
        choice = body.get("function_call")
    if not functions or choice == "none":
        return _Tools()
    named = [it for it in functions if isinstance(it.get("name"), str)]
    names = {it["name"]: _arguments(it) for it in named}
    bare = frozenset(it["name"] for it in named if not _dict(it.get("parameters")).get("required"))
    chosen = _function(_dict(choice)).get("name")
    if isinstance(chosen, str):
        return _Tools(declared=True, names={chosen: names.get(chosen)}, required=True, bare=bare)
    mode = _dict(_dict(choice).get("allowed_tools")).get("mode", choice)
    return _Tools(declared=True, names=names, required=mode in _REQUIRED, bare=bare)


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    """Return the object that has the name: OpenAI nests it, the legacy form does not."""
    return _dict(tool.get("function")) or _dict(tool.get("custom")) or tool


def _arguments(function: dict[str, Any]) -> str | None:
    parameters = function.get("parameters")
    strict = function.get("strict") is True and isinstance(parameters, dict)
    return _json(parameters) if strict else None


def _json(schema: Any) -> str:
    if isinstance(schema, str):
        return schema
    try:
        return msgspec.json.encode(schema).decode()
    except (ValueError, TypeError, RecursionError):
        return UNREADABLE


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float:
    return value if type(value) in {int, float} else 0  # true is an int to Python


def _logprobs(value: Any) -> bool:
    """Say whether it asks for any; 0 does, in a legacy completion: the chosen token's own."""
    return value is not False and isinstance(value, int) and value >= 0
