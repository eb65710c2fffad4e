"""Flower's settings: `celery -A tasks flower` finds them, or others by FLOWER_CONF.

Options on the command line and FLOWER_… variables go before what is set here.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from flower.api import BaseApiHandler
from flower.views import BaseHandler
from tornado.options import options
from tornado.web import HTTPError

from tasks.errors import SettingsError
from tasks.hosts import is_loopback, may_be_called
from tasks.keys import admins
from tasks.settings import Settings


def _data_folder() -> Path:
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "fallthrough"


def _given() -> list[str]:
    """Return each "user:password" of FLOWER_BASIC_AUTH or the command line.

    Flower parts them at commas: of a password with one, what stands before it would be the whole.
    """
    pairs = [pair.strip() for pair in options.basic_auth or ()]
    if not any(pairs):  # set to nothing, it is no password
        return []
    for number, pair in enumerate(pairs, 1):
        if not pair.partition(":")[2]:
            message = (
                f"FLOWER_BASIC_AUTH or --basic-auth: entry {number} of {len(pairs)} is not "
                "user:password; a comma parts two entries, so choose a password without one"
            )
            raise SettingsError(message)
    return pairs


def _credentials(settings: Settings) -> list[str]:
    """Return "user:password" of who may come in; none where nobody else can reach it."""
    found = _given() or admins(settings.api_keys)
    open_to_all = settings.allow_no_keys and not (settings.api_keys or settings.keys_file)
    if found or options.auth or open_to_all or is_loopback(address):
        return found
    message = (
        f"{address} is reachable from elsewhere and nobody has a password: set FLOWER_BASIC_AUTH="
        "user:password, or an admin's key in FALLTHROUGH_API_KEYS, or FALLTHROUGH_ALLOW_NO_KEYS=1"
    )
    raise SettingsError(message)


def _close(allowed_hosts: str) -> None:
    """Answer no other site's page: where nobody has a password, Flower lets any page read all."""

    def closed(prepare: Callable[[BaseHandler], None]) -> Callable[[BaseHandler], None]:
        def prepare_if_called_well(handler: BaseHandler) -> None:
            if not may_be_called(handler.request.host, allowed_hosts):
                message = "name this host in FALLTHROUGH_ALLOWED_HOSTS"
                raise HTTPError(403, message, reason="Unknown host")
            prepare(handler)

        return prepare_if_called_well

    def set_default_headers(handler: BaseHandler) -> None:
        handler.set_header("X-Content-Type-Options", "nosniff")

    BaseHandler.set_default_headers = set_default_headers
    for handlers in (BaseHandler, BaseApiHandler):
        handlers.prepare = closed(handlers.prepare)


# Flower itself would listen on every address.
address = options.address or "127.0.0.1"
try:
    settings = Settings.from_env(os.environ)
    basic_auth = _credentials(settings)
except SettingsError as error:
    sys.stderr.write(f"flower: {error}\n")
    sys.exit(2)
if not basic_auth:
    os.environ.setdefault("FLOWER_UNAUTHENTICATED_API", "true")
    if is_loopback(address):
        _close(settings.allowed_hosts)

# Jobs are cancelled through the API; whoever must shut workers down here sets it to false.
read_only = os.environ.get("FLOWER_READ_ONLY", "true").lower() not in {"0", "false", "no", "off"}

# Its view of tasks and workers outlives it; it never holds a prompt: arguments are ids.
db = os.environ.get("FLOWER_DB") or str(_data_folder() / "flower")
try:
    Path(db).parent.mkdir(parents=True, exist_ok=True)
except OSError as error:
    sys.stderr.write(f"flower: FLOWER_DB: {Path(db).parent} cannot be made: {error.strerror}\n")
    sys.exit(2)
persistent = True
state_save_interval = 60_000  # ms
max_tasks = int(os.environ.get("FLOWER_MAX_TASKS", "10000"))
purge_offline_workers = 300  # s

# The tier is in a task's name (tasks.gpu, …), its jobs' ids in its arguments. State and result say
# what became of them there: HANDED_ON, "answered 30, handed on 2 (failure HTTP 500)".
tasks_columns = "name,state,result,args,received,started,runtime,worker,routing_key"
# ms; its own second is too short for a busy machine. A stop waits for the look under way.
inspect_timeout = float(os.environ.get("FLOWER_INSPECT_TIMEOUT", "3000"))
