"""What vouches for servers is read once a process, and not by each client that the tests make.

A client reads some 150 certificates as it is made, 40 ms of a core, though it will speak plain
HTTP; the tests make thousands.
"""

from __future__ import annotations

import functools
import os
import ssl
from pathlib import Path
from typing import Any

import httpcore2

ELSEWHERE = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # variables: where the certificates are


def share() -> None:
    """Have the clients of httpx, and of the SDK's httpx2, share what is the same for all.

    They change nothing about it. Who asks for more than a file has one of his own.
    """
    create, default = ssl.create_default_context, httpcore2.default_ssl_context

    @functools.cache
    def of_file(file: str, _: float) -> ssl.SSLContext:
        return create(cafile=file)

    def create_or_share(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        if not args and kwargs.keys() == {"cafile"} and Path(kwargs["cafile"]).is_file():
            return of_file(kwargs["cafile"], Path(kwargs["cafile"]).stat().st_mtime)
        return create(*args, **kwargs)

    ours = functools.cache(default)

    def default_or_share(**kwargs: Any) -> ssl.SSLContext:
        # It asks the other, then.
        return default(**kwargs) if any(map(os.environ.get, ELSEWHERE)) else ours(**kwargs)

    ssl.create_default_context = create_or_share
    httpcore2.default_ssl_context = default_or_share
