"""Whether an answer is what its request asked for. Pure; never raises on any JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fallback_chain import schemas
from fallback_chain.answers import AT_LENGTH, WITHHELD, text_in
from fallback_chain.needs import Need

if TYPE_CHECKING:
    from fallback_chain.answers import Answer
    from fallback_chain.needs import Needs


class Fit(NamedTuple):
    """How an answer fits its request. No word of either stands in it.

    detail: "" if it fits; "json": it is no JSON, or no object where one is asked for; "schema": it
    is, but not the schema's; "tools": a call of a tool that was not declared, arguments that do not
    fit, or no call where one is required; "cut": it ended at its length before its form did.
    checked: False if it could not be checked as a whole: a schema that cannot be used, or a form
    that is no JSON. It fits as far as can be said.
    """

    detail: str = ""
    checked: bool = True


FITS = Fit()
UNCHECKED = Fit(checked=False)
NO_JSON = Fit("json")
WRONG_CALL = Fit("tools")
CUT = Fit("cut")
_OF_A_SCHEMA = {True: FITS, None: UNCHECKED}


def check(completion: Any, needs: Needs) -> Fit:
    """Check every choice of a decoded chat completion, or legacy completion, that is no stream."""
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not isinstance(choices, list) or not choices:
        choices = [None]
    fits = [_choice(_dict(choice), needs) for choice in choices]
    misfit = next((fit for fit in fits if fit.detail), None)
    return misfit or (FITS if all(fit.checked for fit in fits) else UNCHECKED)


def heal(text: str) -> str | None:
    """Return the JSON inside a text that is one Markdown code fence around it; else None."""
    inside = text.strip()
    if not (inside.startswith("```") and inside.endswith("```")):
        return None
    inside = inside[3:-3]
    if inside[:4].lower() == "json":
        inside = inside[4:]
    inside = inside.strip()
    return None if _decoded(inside) is _NO_VALUE else inside


def without_fence(answer: Answer) -> dict[str, Any] | None:
    """Return a completion of one choice without a fence around its JSON; None if it has none."""
    if len(answer.choices) != 1 or (inside := heal(answer.text)) is None:
        return None
    [choice] = answer.document["choices"]
    if isinstance(choice.get("message"), dict):
        choice = {**choice, "message": {**choice["message"], "content": inside}}
    else:
        choice = {**choice, "text": inside}
    return {**answer.document, "choices": [choice]}


def _choice(choice: dict[str, Any], needs: Needs) -> Fit:
    message = _dict(choice.get("message"))
    reason = choice.get("finish_reason")
    reason = reason.lower() if isinstance(reason, str) else ""
    cut = reason in AT_LENGTH
    calls = _calls(message)
    if calls:
        return CUT if cut else _all_calls(calls, needs)
    refusal = message.get("refusal")
    # How a model answers what it will not; no other is to be asked instead.
    refused = isinstance(refusal, str) and refusal
    if not needs.strict_form or refused or reason in WITHHELD:
        return FITS
    if cut:
        return CUT
    if needs.call_required:
        return WRONG_CALL
    said = text_in(message.get("content", choice.get("text")))  # the text of a legacy completion
    return UNCHECKED if needs.other_form else _text(said or "", needs)


def _text(text: str, needs: Needs) -> Fit:
    value = _decoded(text)
    if value is _NO_VALUE or (Need.JSON in needs.kinds and not isinstance(value, dict)):
        return NO_JSON
    if needs.schema is None:
        return FITS
    return _OF_A_SCHEMA.get(schemas.is_valid(needs.schema, value, len(text)), Fit("schema"))


def _calls(message: dict[str, Any]) -> list[Any]:
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        return calls
    function = message.get("function_call")  # the legacy form
    return [{"function": function}] if isinstance(function, dict) else []


def _all_calls(calls: list[Any], needs: Needs) -> Fit:
    fits = [_call(_dict(call), needs) for call in calls]
    if WRONG_CALL in fits:
        return WRONG_CALL
    return UNCHECKED if UNCHECKED in fits else FITS


def _call(call: dict[str, Any], needs: Needs) -> Fit:
    function, custom = _dict(call.get("function")), _dict(call.get("custom"))
    name = (function or custom).get("name")
    if not isinstance(name, str) or name not in needs.tools:
        return WRONG_CALL
    if not function:  # a custom tool's input is free text
        return FITS
    arguments: Any = function.get("arguments")
    if arguments in (None, "") and name in needs.bare_tools:  # as servers say that there are none
        arguments = "{}"
    value = _decoded(arguments)
    if not isinstance(value, dict):
        return WRONG_CALL
    schema = needs.tools[name]
    if schema is None:
        return FITS
    return _OF_A_SCHEMA.get(schemas.is_valid(schema, value, len(arguments)), WRONG_CALL)


_NO_VALUE = object()


def _decoded(text: Any) -> Any:
    """Return the JSON value of a text; _NO_VALUE for what is none, or too deep for any reader."""
    try:
        return msgspec.json.decode(text) if isinstance(text, str) else _NO_VALUE
    except (ValueError, RecursionError):
        return _NO_VALUE


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
