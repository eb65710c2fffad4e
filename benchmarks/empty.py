"""The API's framework and server with an endpoint that does nothing: `… PORT`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request


async def nothing(request: Request) -> Response:
    """Read the body, answer 202."""
    msgspec.json.decode(await request.body() or b"{}")
    return Response(b'{"id":"job_x"}', 202, media_type="application/json")


def main() -> None:
    """Serve for ever."""
    app = Starlette(routes=[Route("/{rest:path}", nothing, methods=["GET", "POST"])])
    options = {"loop": "uvloop", "http": "httptools", "access_log": False, "log_level": "error"}
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), **options)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
