"""What a server's reply means: the one table of verdicts. Pure; never raises."""

from __future__ import annotations

import email.utils
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fallback_chain.answers import ENDINGS, Answer, read_answer
from fallback_chain.answers import INTERRUPTED as BROKEN_OFF
from fallback_chain.body import Body, Endpoint
from fallback_chain.errors import UnshowableError
from fallback_chain.trial import INTERRUPTED, NO_VECTORS, UNSHOWABLE, Tokens, Verdict
from fallback_chain.vectors import read_vectors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fallback_chain.http import Reply

MOST_TOKENS = 2**31  # of one call; a server that counts more does not count
LONGEST_RETRY_AFTER = 3600.0  # seconds; what a server asks beyond that is not believed

KEPT_OF_ERROR = 64 * 1024  # characters of a server's error text that go to the caller
MOST_ENTRIES = 20  # of a list of errors
WRAPPERS = ("error", "detail", "message")  # where servers put an error object into another
WORDS = ("message", "detail", "msg", "error")  # where an error object has its words
LONGEST_NAME, LARGEST_NUMBER = 256, 2**53  # of an error's type, param and code


class Rule(NamedTuple):
    """What a status means if its body says one of the words, in lower case, or whatever it says."""

    statuses: frozenset[int]
    words: tuple[str, ...]
    verdict: Verdict
    detail: str = ""
    of_an_error: bool = False  # only if the body is an error object


def _range(first: int, last: int) -> frozenset[int]:
    return frozenset(range(first, last + 1))


BUSY = (
    *("busy", "overload", "queue", "capacity", "too many", "rate limit", "maximum pending"),
    "reset reason: overflow",  # Envoy's, in front of a server that has as many calls as it may
)
UNPAID = ("insufficient_quota", "current quota", "insufficient credit", "out of credit")
# What gateways, LiteLLM above all, say of a key whose money is spent: some with a 400.
OVERSPENT = (
    *("budget_exceeded", "budget has been exceeded", "exceededbudget"),
    *("max budget limit reached", "credit balance is too low"),
)
BY_ITS_USER = ("end user=",)  # whom the request names: others go on
NO_MODEL = (
    *("model_not_found", "model not found", "not found, try pulling", "unknown model"),
    *("no such model", "invalid model", "model is not", "` does not exist", "' does not exist"),
)
# Ollama's words for it, and those of routers: the name stands between them.
NAMED_MODEL = re.compile(r"\bmodel \S{1,256} (?:was )?not found")
TOO_LONG = ("context_length_exceeded", "exceed_context_size", "maximum context", "context length")
TOO_LONG_MORE = (
    *("context size", "context window", "max_model_len", "exceeds max length"),
    *("tokenizer's max length", "prompt is too long", "exceed max_num_tokens"),
    *("`inputs` tokens + `max_new_tokens`", "`inputs` must have less than"),  # TGI's
)
UNABLE = (
    *("not support", "n't support", "unsupported", "not implemented", "not enabled"),
    *("only one completion choice", "only one choice", "requires --", "param requires"),
    *("multimodal", "mmproj", "tool call parser", "not a chat model", "chat template"),
)
# What a server says whose own build, or machine, lacks something: for every request.
BROKEN = ("cuda", "hip error", "toolchain", "kernel image", "_impl_", "runtimeerror")
POLICY = ("content_policy", "content policy", "content_filter", "moderation", "flagged")
DEAD = ("engine is dead", "enginedead", "enginecore", "engine process", "background loop has")
# What servers in front of a model's say to a URL that is a little wrong.
MISROUTED = ("sent to https port", "http request to an https server", "invalid host header")
MISROUTED_MORE = ("no required ssl certificate", "ssl certificate error")

NO_SUCH_MODEL, CONTEXT, LACKING = "no such model", "context too long", "not supported"
OVER_BUDGET = "over budget"
ANY = ()  # words: whatever it says
# Where an error that is told with another status, or in a stream, has its own; and what its kind
# would have had.
STATUSES = ("code", "status_code", "http_status_code", "status")
KINDS = ("code", "type", "error_type")
STATUS_OF_KIND = {
    "validation": 422,  # TGI's
    "overloaded": 503,
    "overloaded_error": 529,
    "context_length_exceeded": 400,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
}
ERRORS = range(400, 600)
# The first that applies counts. What no rule names is the tier's failure: unknown is never the
# request's fault. Only REFUSED ends a request; all others go on to the next tier.
RULES = (
    Rule(frozenset({429, 529}), UNPAID, Verdict.MISCONFIGURED),
    Rule(frozenset({400, 429}), BY_ITS_USER, Verdict.UNFIT, OVER_BUDGET),
    Rule(frozenset({400, 429}), OVERSPENT, Verdict.MISCONFIGURED, OVER_BUDGET),
    Rule(frozenset({429}), ("request too large",), Verdict.UNFIT, CONTEXT),  # however long it waits
    Rule(frozenset({429, 529}), ANY, Verdict.SATURATED),
    Rule(frozenset({503}), BUSY, Verdict.SATURATED),
    Rule(frozenset({400, 404, 422}), NO_MODEL, Verdict.UNFIT, NO_SUCH_MODEL),
    Rule(_range(400, 499), TOO_LONG + TOO_LONG_MORE, Verdict.UNFIT, CONTEXT),
    Rule(frozenset({500}), TOO_LONG, Verdict.UNFIT, CONTEXT),  # llama.cpp's older releases
    Rule(frozenset({400, 403, 422}), POLICY, Verdict.REFUSED),
    Rule(frozenset({400}), MISROUTED + MISROUTED_MORE, Verdict.MISCONFIGURED),
    Rule(frozenset({400, 422}), DEAD, Verdict.FAILURE),  # behind a server that is well
    Rule(frozenset({500, 501}), BROKEN, Verdict.FAILURE),
    Rule(frozenset({400, 404, 415, 422, 500, 501}), UNABLE, Verdict.UNFIT, LACKING),
    Rule(frozenset({413, 414, 415, 416, 431, 451}), ANY, Verdict.REFUSED),
    Rule(frozenset({400, 422}), ANY, Verdict.REFUSED, of_an_error=True),
    Rule(_range(300, 399), ANY, Verdict.MISCONFIGURED),
    Rule(frozenset({401, 402, 403, 404, 405, 406, 407, 410, 421, 426}), ANY, Verdict.MISCONFIGURED),
)
HOLDING = [word for rule in RULES if rule.verdict is Verdict.MISCONFIGURED for word in rule.words]
OTHERWISE = Rule(frozenset(), ANY, Verdict.FAILURE)
# Of a server that has no such path, but that of chats: nothing is wrong with its tier.
NO_PATH = Rule(frozenset({404, 405, 501}), ANY, Verdict.UNFIT, LACKING)


class Meaning(msgspec.Struct, frozen=True):
    """A reply, understood. detail holds no words of the server's: they may echo the prompt.

    keep: an answer that may be given again to who asks the same. hung: of a job that ran out of
    time: its server said nothing for as long as a try may last, or nearly; that is its own failure.
    doubtful: a failure that may as well be the request's fault: it says nothing of the server.
    """

    verdict: Verdict
    detail: str = ""
    model: str | None = None
    error: dict[str, Any] | None = None
    retry_after_seconds: float | None = None
    no_such_model: bool = False
    tokens: Tokens = Tokens()
    keep: bool = True
    answer: Answer | None = None
    hung: bool = False
    doubtful: bool = False


def classify(
    reply: Reply,
    now: float,
    *,
    strict: bool = True,
    endpoint: str = Endpoint.CHAT,
    asked: Body | None = None,
) -> Meaning:
    """Say what a reply means.

    now: epoch seconds, for Retry-After dates. strict: a choice that does not say why it ended was
    interrupted. asked: the request; of one for embeddings it says how many there must be, and what
    its own words are.
    """
    if reply.status == 200:  # noqa: PLR2004 - HTTP's own number
        if endpoint == Endpoint.EMBEDDINGS:
            meaning = _embedded(reply, asked.inputs if asked else 1)
        else:
            meaning = _success(reply, strict=strict)
        status = status_told(reply.content) if meaning.verdict is Verdict.FAILURE else None
        if status is None:
            return meaning
        reply = msgspec.structs.replace(reply, status=status)
    return _failure(reply, now, endpoint, asked)


def is_doubtful(reply: Reply) -> bool:
    """Whether a failure is the request's own as likely, which has pictures or the like.

    Servers answer 500 where they cannot fetch or decode them.
    """
    if reply.status != 500:  # noqa: PLR2004 - HTTP's own number
        return False
    said = _plain(reply.content).lower()
    return not any(word in said for word in (*BROKEN, *DEAD))


def status_told(content: bytes) -> int | None:
    """Return the status that an error with another one, or in a stream, would have had.

    None: it does not say, or has an answer beside it.
    """
    try:
        body: Any = msgspec.json.decode(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or not body.get("error") or body.get("choices"):
        return None
    error = body["error"] if isinstance(body["error"], dict) else body
    for name in STATUSES:
        said = error.get(name)
        number = int(said) if isinstance(said, str) and said.isdecimal() else said
        if type(number) is int and number in ERRORS:
            return number
    kinds = (error.get(name) for name in KINDS)
    return next((STATUS_OF_KIND[k] for k in kinds if k in STATUS_OF_KIND), None)


def _failure(reply: Reply, now: float, endpoint: str, asked: Body | None) -> Meaning:
    error, said, is_error = _error_of(reply)
    rule = rule_for(reply.status, said, is_error=is_error)
    if rule.verdict is Verdict.MISCONFIGURED and rule.words and asked is not None:
        said = _without_echo(said, asked)
        rule = rule_for(reply.status, said, is_error=is_error)
    if endpoint != Endpoint.CHAT and reply.status in NO_PATH.statuses and not rule.words:
        rule = NO_PATH
    saturated = rule.verdict is Verdict.SATURATED
    return Meaning(
        rule.verdict,
        f"HTTP {reply.status} {rule.detail}".rstrip(),
        error=error if rule.verdict in {Verdict.REFUSED, Verdict.UNFIT} else None,
        retry_after_seconds=retry_after(reply.headers, now) if saturated else None,
        no_such_model=rule.detail == NO_SUCH_MODEL,
    )


def rule_for(status: int, said: str, *, is_error: bool) -> Rule:
    """Return the rule for a status that is not 200.

    said: the body's words, in lower case. is_error: the body is an error object.
    """
    for rule in RULES:
        fits = not rule.words or any(word in said for word in rule.words)
        if status in rule.statuses and fits and (is_error or not rule.of_an_error):
            return rule
    return OTHERWISE


def _without_echo(said: str, asked: Body) -> str:
    """Return what a server says without the words for a tier's fault that the request has as well.

    Servers repeat what they refuse: no request may have a tier held for everybody.
    """
    its_own = msgspec.json.encode(asked.decoded()).decode().lower()
    for word in HOLDING:
        if word in its_own:
            said = said.replace(word, "")
    return said


def _success(reply: Reply, *, strict: bool) -> Meaning:
    try:
        answer = read_answer(reply.content)
    except UnshowableError:
        return Meaning(Verdict.FAILURE, UNSHOWABLE)
    if answer.document.get("error") or _is_interrupted(answer, strict=strict):
        return Meaning(Verdict.FAILURE, INTERRUPTED)
    if not any(choice.says_something for choice in answer.choices):
        return Meaning(Verdict.FAILURE, "empty")
    keep = all(choice.shows_something for choice in answer.choices)
    tokens = _tokens(answer.usage)
    return Meaning(Verdict.ANSWERED, model=answer.model, tokens=tokens, keep=keep, answer=answer)


def _embedded(reply: Reply, inputs: int) -> Meaning:
    try:
        vectors = read_vectors(reply.content, inputs)
    except UnshowableError:
        return Meaning(Verdict.FAILURE, NO_VECTORS)
    return Meaning(Verdict.ANSWERED, model=vectors.model, tokens=_tokens(vectors.usage))


def _is_interrupted(answer: Answer, *, strict: bool) -> bool:
    """Whether any choice was broken off: servers say so, or say nothing, with a status of 200."""
    for choice in answer.choices:
        reason = choice.ending
        if choice.broken or reason in BROKEN_OFF or (strict and reason not in ENDINGS):
            return True
    return False


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
    return said if type(said) is int and said in range(MOST_TOKENS) else 0


def _error_of(reply: Reply) -> tuple[dict[str, Any], str, bool]:
    """Return OpenAI's error object, whichever of the usual forms the server chose; and its words.

    The words, in lower case, are for us; the object is for the caller, and small. Last: whether
    there was one: a proxy's page, or nothing, is none.
    """
    try:
        body: Any = msgspec.json.decode(reply.content)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, str | list):
        body = {"message": body}
    found = _opened(body) if isinstance(body, dict) else {}
    text = next(filter(None, (_words(found.get(name)) for name in WORDS)), "")
    error = {
        "message": text or f"the model server answered {reply.status}",
        "type": _name(found.get("type")) or "invalid_request_error",
        "param": _name(found.get("param")),
        "code": _name(found.get("code")),
    }
    told = f"{error['code']} {error['type']} {text}" if found else _plain(reply.content)
    told = NAMED_MODEL.sub("model not found", told.lower())
    cut = body is None and reply.content.lstrip().startswith(b"{")  # what is left of a long one
    return error, told, cut or bool(text or found.get("type") or found.get("code"))


def _opened(error: dict[str, Any]) -> dict[str, Any]:
    """Return an error object with what stands in objects inside it, as FastAPI's detail has it."""
    for name in WRAPPERS * 2:
        inner = error.get(name)
        if isinstance(inner, dict):
            told = {key: value for key, value in error.items() if value and key != name}
            error = {**inner, **told}
    return error


def _words(said: Any) -> str:
    """Return what a server says for people, FastAPI's list of {loc, msg} too, and not all of it."""
    if isinstance(said, list):
        said = "; ".join(_entry(entry) for entry in said[:MOST_ENTRIES])
    if not isinstance(said, str):
        return ""
    return said if len(said) <= KEPT_OF_ERROR else f"{said[:KEPT_OF_ERROR]} …"


def _entry(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry) if isinstance(entry, str) else ""
    where, what = entry.get("loc"), entry.get("msg") or entry.get("message")
    path = ".".join(str(step) for step in where) if isinstance(where, list) else ""
    return f"{path}: {what}" if path else str(what or "")


def _name(said: Any) -> str | int | None:
    """Return a short name or number of a server's; None for anything else."""
    if type(said) is int and abs(said) < LARGEST_NUMBER:
        return said
    return said if isinstance(said, str) and len(said) <= LONGEST_NAME else None


def _plain(content: bytes) -> str:
    return content[:KEPT_OF_ERROR].decode(errors="replace")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number or an HTTP date."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - now
        except (ValueError, IndexError, OverflowError):
            return None
    if seconds != seconds:  # noqa: PLR0124 - NaN
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
