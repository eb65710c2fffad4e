"""The pages for people at /, and the files that they are made of; they ask the API."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from api.routing import Route, Undescribed

if TYPE_CHECKING:
    import os

    from starlette.requests import Request
    from starlette.routing import BaseRoute
    from starlette.types import Scope

# Nothing of another host, no script in the markup, and no text that a script makes markup of.
CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
# A browser asks each time, and is told that nothing changed: after an upgrade no old script runs.
FILE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
STATIC = Path(str(files("api") / "static"))


async def page(_: Request) -> Response:
    """GET /: which of the pages is shown stands after the # of the address."""
    return HTMLResponse(_index(), headers=PAGE_HEADERS)


@cache
def _index() -> str:
    return (STATIC / "index.html").read_text(encoding="utf-8")


class PageFiles(StaticFiles):
    """Scripts and styles of the pages."""

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Return a file, or that it is what the browser has."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(FILE_HEADERS)
        return response


def routes() -> list[BaseRoute]:
    """Return the routes; the document describes none of them."""
    files_of_pages = Mount("/static", PageFiles(directory=STATIC))
    return [Route("GET", "/", page, Undescribed.PAGE), files_of_pages]
