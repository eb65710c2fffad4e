"""What the release before layout 2 left in its store and on its storage, stopped in mid-work.

data/layout-1.json was written by that release itself: finished, running, parked and queued jobs, a
batch that is done, one half done (its worker was killed), one not validated; and their messages.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis

LEFT = json.loads((Path(__file__).parent.parent / "data" / "layout-1.json").read_text())
IDS: dict[str, str] = LEFT["ids"]


def leave(client: redis.Redis, files: Path) -> None:
    """Put it there, as if it had been left just now."""
    later = int(time.time() * 1000) - LEFT["made_ms"]
    for name, content in LEFT["files"].items():
        path = files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    for key, entry in LEFT["keys"].items():
        _write(client, key, entry["type"], _moved(entry["value"], later))
        if "ttl_ms" in entry:
            client.pexpire(key, entry["ttl_ms"])


def _moved(value: Any, later: int) -> Any:
    """Move every point in time: numbers that are epoch milliseconds, or seconds."""
    if isinstance(value, dict):
        return {name: _moved(each, later) for name, each in value.items()}
    try:
        number = float(value)
    except (TypeError, ValueError):
        return value
    if number > 1e12:
        return str(int(number) + later)
    return number + later / 1000 if 1e9 < number < 1e10 else value


def _write(client: redis.Redis, key: str, kind: str, value: Any) -> None:
    match kind:
        case "hash":
            client.hset(key, mapping=value)
        case "zset":
            client.zadd(key, value)
        case "list":
            client.rpush(key, *value)
        case "set":
            client.sadd(key, *value)
        case "string":
            client.set(key, value)
