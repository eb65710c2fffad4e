"""Chat completions as JSON: the one way in which they are read, and the one that we write.

What read_answer() takes can be shown, listed, cached and written to a batch's file: whoever judges
a reply, or shows a record, reads it so.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fallback_chain.errors import UnshowableError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Reasons to finish that end an answer; the last line's are other APIs', which gateways let through.
ENDINGS = frozenset(
    {
        *("stop", "length", "tool_calls", "function_call", "content_filter", "repetition"),
        *("eos", "eos_token", "stop_sequence", "end_turn", "max_tokens", "tool_use"),
        *("model_length", "refusal", "safety", "recitation"),
    }
)
# What servers say of a generation that was broken off, with a status of 200.
INTERRUPTED = frozenset({"abort", "aborted", "cancelled", "error", "load", "unload", "timeout"})
AT_LENGTH = frozenset({"length", "max_tokens", "model_length"})
WITHHELD = frozenset({"content_filter", "refusal", "safety", "recitation"})
NO_WORDS = AT_LENGTH | WITHHELD  # what may leave no word
CALLS = ("tool_calls", "function_call")
# Where an answer is that has no text.
BESIDE = (*CALLS, "refusal", "audio", "reasoning_content", "reasoning")
SEEN = frozenset({*CALLS, "refusal", "audio"})  # of these, not the thinking
# Objects and lists inside one another: half of what Python's stack takes. Who shows an answer may
# stand deeper in his stack than who judged it.
MOST_NESTING = 500


class Choice(NamedTuple):
    """One of an answer's choices.

    text: None if it has none. beside: what it has instead. broken: it has an error of its own.
    """

    text: str | None
    finish_reason: str | None
    beside: frozenset[str]
    broken: bool = False

    @property
    def calls_a_tool(self) -> bool:
        """Whether the model asks for a tool, in either form."""
        return not self.beside.isdisjoint(CALLS)

    @property
    def ending(self) -> str:
        """Why it ended, as ENDINGS has it: some servers write it large."""
        return (self.finish_reason or "").lower()

    @property
    def says_something(self) -> bool:
        """Whether it is an answer, if only that the model has thought for too long."""
        return self.text is not None or bool(self.beside) or self.ending in NO_WORDS

    @property
    def shows_something(self) -> bool:
        """Whether its reader sees anything of it."""
        return bool(self.text) or bool(self.beside & SEEN)


class Answer(NamedTuple):
    """A (chat) completion. document: the whole of it."""

    document: dict[str, Any]
    choices: list[Choice]

    @property
    def text(self) -> str:
        """The text of the first choice; empty for one that has none."""
        return (self.choices[0].text or "") if self.choices else ""

    @property
    def calls_a_tool(self) -> bool:
        """Whether any choice asks for a tool."""
        return any(choice.calls_a_tool for choice in self.choices)

    @property
    def model(self) -> str | None:
        """Who spoke, if that is said."""
        model = self.document.get("model")
        return model if isinstance(model, str) else None

    @property
    def usage(self) -> dict[str, Any] | None:
        """What was counted, if anything was."""
        usage = self.document.get("usage")
        return usage if isinstance(usage, dict) else None


def read_answer(content: bytes) -> Answer:
    """Return a (chat) completion as it can be shown; raises UnshowableError."""
    try:
        document: Any = msgspec.json.decode(content)
        choices = list(_choices(document))
    except (ValueError, RecursionError) as error:
        raise UnshowableError from error
    # Most answers have too few brackets to be worth a look.
    brackets = content.count(b"{") + content.count(b"[")
    if brackets > MOST_NESTING and is_deeper(document, MOST_NESTING):
        raise UnshowableError
    return Answer(document, choices)


def is_deeper(value: Any, most: int) -> bool:
    """Say whether more than so many objects and lists are inside one another."""
    level = [value]
    for _ in range(most + 1):
        level = [node for node in level if isinstance(node, dict | list)]
        if not level:
            return False
        level = [
            child for node in level for child in (node.values() if isinstance(node, dict) else node)
        ]
    return True


def _choices(document: Any) -> Iterator[Choice]:
    if not isinstance(document, dict):
        raise UnshowableError
    listed = document.get("choices")
    if not isinstance(listed, list | None):
        raise UnshowableError
    for choice in listed or ():
        if not isinstance(choice, dict):
            raise UnshowableError
        message = choice.get("message")
        if message is None:  # of a legacy completion
            message, said = {}, choice.get("text")
        elif isinstance(message, dict):
            said = message.get("content")
        else:
            raise UnshowableError
        if not isinstance(said, str | list | None):
            raise UnshowableError
        beside = frozenset([name for name in BESIDE if message.get(name)])
        reason = choice.get("finish_reason")
        reason = reason if isinstance(reason, str) else None
        yield Choice(text_in(said), reason, beside, broken=bool(choice.get("error")))


def text_in(content: Any) -> str | None:
    """Return the text of a message's content: some servers answer in parts. None: there is none."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def text_of(answer: bytes) -> str:
    """Return the text of a chat completion: of its first choice, "" if it has none."""
    return read_answer(answer).text


def degraded_answer(
    message: str, model: str, job_id: str | None = None, *, legacy: bool = False
) -> bytes:
    """Return the honest answer when no tier could give one, marked as such.

    legacy: as /v1/completions answers, not as /v1/chat/completions does.
    """
    said = {"text": message} if legacy else {"message": {"role": "assistant", "content": message}}
    return msgspec.json.encode(
        {
            "id": f"{'cmpl' if legacy else 'chatcmpl'}-{job_id or os.urandom(12).hex()}",
            "object": "text_completion" if legacy else "chat.completion",
            "created": int(time.time()),
            "model": model or "fallthrough-degraded",
            "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
            "fallthrough": {"degraded": True},
        }
    )
