"""What a server's reply means: the one table of verdicts. Pure; never raises."""

from __future__ import annotations

import email.utils
from typing import TYPE_CHECKING, Any

import msgspec

from fallback_chain.trial import Tokens, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fallback_chain.http import Reply

MOST_TOKENS = 2**31  # of one call; a server that counts more does not count
LONGEST_RETRY_AFTER = 3600.0  # seconds; what a server asks beyond that is not believed

BUSY = ("busy", "overload", "queue", "capacity", "too many", "rate limit", "maximum pending")
NO_MODEL = ("model_not_found", "does not exist", "model not found", "not found, try pulling")
NO_MODEL_MORE = ("unknown model", "no such model", "invalid model", "model is not")
TOO_LONG = ("context_length_exceeded", "exceed_context_size", "maximum context", "context length")
TOO_LONG_MORE = ("context size", "context window", "max_model_len", "exceeds max length")
MISCONFIGURED = frozenset({401, 403, 405, 407})


class _Message(msgspec.Struct):
    content: Any = None
    tool_calls: Any = None
    refusal: Any = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    text: str | None = None  # of a legacy completion


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str | None = None
    usage: Any = None  # what it says is counted if it makes sense, and no reason to fail


_completion = msgspec.json.Decoder(_Completion)


class Meaning(msgspec.Struct, frozen=True):
    """A reply, understood. detail holds no words of the server's: they may echo the prompt."""

    verdict: Verdict
    detail: str = ""
    model: str | None = None
    error: dict[str, Any] | None = None
    retry_after_seconds: float | None = None
    no_such_model: bool = False
    tokens: Tokens = Tokens()


def classify(reply: Reply, now: float) -> Meaning:
    """Say what a reply to a (chat) completion means. now: epoch seconds, for Retry-After dates."""
    status = reply.status
    if status == 200:  # noqa: PLR2004 - HTTP's own number
        return _success(reply)
    error = _error_of(reply)
    said = f"{error.get('code')} {error.get('type')} {error.get('message')}".lower()
    if status == 429 or (status == 503 and any(word in said for word in BUSY)):  # noqa: PLR2004
        wait = retry_after(reply.headers, now)
        return Meaning(Verdict.SATURATED, f"HTTP {status}", retry_after_seconds=wait)
    if status >= 500 or status == 408 or status < 200:  # noqa: PLR2004
        if any(word in said for word in TOO_LONG):  # llama.cpp's older releases answer 500
            return Meaning(Verdict.UNFIT, f"HTTP {status} context too long", error=error)
        return Meaning(Verdict.FAILURE, f"HTTP {status}")
    return _client_error(status, error, said)


def _client_error(status: int, error: dict[str, Any], said: str) -> Meaning:
    no_model = any(word in said for word in NO_MODEL + NO_MODEL_MORE) and "model" in said
    if no_model and status in {400, 404, 422}:
        return Meaning(
            Verdict.UNFIT, f"HTTP {status} no such model", error=error, no_such_model=True
        )
    if any(word in said for word in TOO_LONG + TOO_LONG_MORE):
        return Meaning(Verdict.UNFIT, f"HTTP {status} context too long", error=error)
    if status in MISCONFIGURED or status == 404 or status < 400:  # noqa: PLR2004
        return Meaning(Verdict.MISCONFIGURED, f"HTTP {status}")
    return Meaning(Verdict.REFUSED, f"HTTP {status}", error=error)


def _success(reply: Reply) -> Meaning:
    try:
        reply.content.decode()  # what msgspec skips it does not look at, and we pass on all of it
        completion = _completion.decode(reply.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Meaning(Verdict.FAILURE, "not a chat completion")
    if not completion.choices:
        return Meaning(Verdict.FAILURE, "no choices")
    if not _says_something(completion.choices[0]):
        return Meaning(Verdict.FAILURE, "an empty message")
    return Meaning(Verdict.ANSWERED, model=completion.model, tokens=_tokens(completion.usage))


def _tokens(usage: Any) -> Tokens:
    if not isinstance(usage, dict):
        return Tokens()
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    prompt, answer = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return Tokens(_count(prompt), _count(answer), cached, reasoning)


def _detail(usage: dict[str, Any], where: str, what: str) -> int:
    details = usage.get(where)
    return _count(details.get(what)) if isinstance(details, dict) else 0


def _count(said: Any) -> int:
    # true is an int to Python, and the store's counters end at 2 ** 63
    return said if type(said) is int and 0 <= said < MOST_TOKENS else 0


def _says_something(choice: _Choice) -> bool:
    message = choice.message
    if message is None:
        return choice.text is not None
    return message.content is not None or bool(message.tool_calls) or message.refusal is not None


def _error_of(reply: Reply) -> dict[str, Any]:
    """Return OpenAI's error object, whichever of the usual forms the server chose."""
    try:
        body: Any = msgspec.json.decode(reply.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = None
    found = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(found, str):
        found = {"message": found}
    if not isinstance(found, dict):
        found = {}
    message = found.get("message") or found.get("detail") or found.get("msg")
    text = message if isinstance(message, str) else f"the model server answered {reply.status}"
    return {
        "message": text,
        "type": str(found.get("type") or "invalid_request_error"),
        "param": found.get("param"),
        "code": found.get("code"),
    }


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number or an HTTP date."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    if seconds != seconds:  # noqa: PLR0124 - NaN
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
