"""What can go wrong on the way to an answer.

FallbackError
├── UpstreamError         a server could not be reached, hung, or broke off
├── UnshowableError       what a server answered cannot be read, so nobody can be shown it
├── CacheFullError        the cache's storage takes nothing new; what it has it gives
├── NoFormError           no tier answered, and the degraded message has not the form asked for
└── RequestRefusedError   the request itself is at fault; no tier can mend that
"""

from __future__ import annotations

from typing import Any, Literal

Kind = Literal["connect", "tls", "timeout", "reset", "protocol", "too large"]


class FallbackError(Exception):
    """Base of all errors that this package raises."""


class UpstreamError(FallbackError):
    """No whole answer came back. The message never holds what was sent or received."""

    def __init__(self, message: str, kind: Kind) -> None:
        super().__init__(message)
        self.kind = kind


class UnshowableError(FallbackError):
    """It is no (chat) completion that can be read whole, so nobody can be shown it."""


class BrokenStreamError(FallbackError):
    """A stream that is no whole answer. event: what its server says of it, if it says anything."""

    def __init__(self, detail: str, event: bytes = b"") -> None:
        super().__init__(detail)
        self.detail, self.event = detail, event


class CacheFullError(FallbackError):
    """The cache's storage is at its memory limit: it takes nothing new, and gives what it has."""


class NoFormError(FallbackError):
    """No tier answered, and the request demands a form, or a call, that no message of ours has."""


class RequestRefusedError(FallbackError):
    """The request's own fault. status: HTTP; error: OpenAI's error object."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message") or "the request was refused"))
        self.status = status
        self.error = error
