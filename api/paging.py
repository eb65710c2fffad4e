"""Lists, newest first, a page at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from api.errors import bad, json_response
from api.services import ID, is_id, owner_of
from tasks.errors import NoSuchCursor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.requests import Request
    from starlette.responses import Response

    from api.routing import Schema

DEFAULT_PAGE, LARGEST_PAGE = 20, 100
LONGEST_NUMBER = 9  # digits
LONGEST_TEXT = 200  # characters that are looked for


class _Named(Protocol):
    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=_Named)


async def page_of(  # noqa: PLR0913 - a list is these
    request: Request,
    what: str,
    find: Callable[[str, int, str | None], Awaitable[tuple[list[R], bool]]],
    show: Callable[[R], Any],
    *,
    limit: int = DEFAULT_PAGE,
    largest: int = LARGEST_PAGE,
    following: Callable[[], str | None] | None = None,
) -> Response:
    """Answer ?limit=&after= with the owner's records after that one; next: where to go on."""
    limit = whole_of(request, "limit", limit, 1, largest)
    after, owner = request.query_params.get("after"), owner_of(request)
    unknown = bad(f"after: no {what} {after!r}", "after")
    if after is not None and not is_id(after):
        raise unknown
    try:
        records, more = await find(owner, limit, after)
    except NoSuchCursor:
        raise unknown from None
    page = {
        "object": "list",
        "data": [show(record) for record in records],
        "first_id": records[0].id if records else None,
        "last_id": records[-1].id if records else None,
        "has_more": more,
        "next": following() if following else records[-1].id if records and more else None,
    }
    return json_response(page)


async def found_page(
    request: Request,
    what: str,
    find: Callable[[str, int, str | None], Awaitable[tuple[list[R], str | None]]],
    show: Callable[[R], Any],
) -> Response:
    """Answer as page_of does, with those that fit; next: where to go on, None at the end.

    One request looks at so many records: there may be none that fits, and a next one.
    """
    following: str | None = None

    async def counted(owner: str, limit: int, after: str | None) -> tuple[list[R], bool]:
        nonlocal following
        records, following = await find(owner, limit, after)
        return records, following is not None

    return await page_of(request, what, counted, show, following=lambda: following)


def text_of(request: Request, name: str, longest: int = LONGEST_TEXT) -> str:
    """Return a text of the query; "" if it is not there, a 400 if it is too long."""
    text = request.query_params.get(name, "")
    if len(text) > longest:
        raise bad(f"{name}: must have at most {longest} characters", name)
    return text


def choice_of(request: Request, name: str, choices: Iterable[str]) -> str:
    """Return one of some words of the query; "" if there is none, a 400 lists them."""
    word = request.query_params.get(name, "")
    if word and word not in (known := list(choices)):
        raise bad(f"{name}: must be one of {', '.join(known)}, not {word!r}", name)
    return word


def page_query(
    what: str, default: int = DEFAULT_PAGE, largest: int = LARGEST_PAGE
) -> dict[str, Schema]:
    """Return what the query of such a list may hold, for its description."""
    limit = {"type": "integer", "minimum": 1, "maximum": largest, "default": default}
    about = f"id of the last {what} seen"
    return {"limit": limit, "after": {"type": "string", "description": about, "pattern": f"^{ID}$"}}


def whole(text: str) -> int | None:
    """Return the whole number that a text is; None if it is none, or too long to be one of ours.

    Of ASCII digits: str.isdigit() takes "²" too, which int() does not.
    """
    fits = text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER
    return int(text) if fits else None


def decimal(text: str) -> float | None:
    """Return the number that a text is, written as in JSON; None if it is none.

    float() takes "1_0", "nan" and digits of other scripts, too.
    """
    try:
        return msgspec.json.decode(text, type=float)
    except msgspec.DecodeError:
        return None


def whole_of(request: Request, name: str, default: int, low: int, high: int) -> int:
    """Return a whole number of the query; a 400 says what it may be."""
    text = request.query_params.get(name)
    value = default if text is None else whole(text)
    if value is None or not low <= value <= high:
        raise bad(f"{name}: must be a whole number from {low} to {high}, not {text!r}", name)
    return value


def number_of(request: Request, name: str, default: float, low: float, high: float) -> float:
    """Return a number of the query; a 400 says what it may be."""
    text = request.query_params.get(name)
    if text is None:
        return default
    value = decimal(text)
    if value is None or not low <= value <= high:
        raise bad(f"{name}: must be a number from {low:g} to {high:g}, not {text!r}", name)
    return value
