"""The store's scripts, each of which fails when it touches a key that it did not declare."""

from __future__ import annotations

import re

from tasks.store.autopipeline import Script
from tasks.store.connection import Connection, load_scripts

FINDS = re.compile(r"^-- finds ((?:\S+:\* )+)", re.MULTILINE)

# In front of a script: its `redis` is this one. %s: the patterns of what it finds as it runs.
SPY = """
local real, declared = redis, {}
for _, key in ipairs(KEYS) do declared[key] = true end
local function check(command, key)
  if command == 'PUBLISH' or declared[key] then return end
  local name = key:sub(#ARGV[1] + 1)
  for _, pattern in ipairs({ %s }) do
    if name:sub(1, #pattern) == pattern then return end
  end
  error('UNDECLARED ' .. command .. ' ' .. name)
end
local function spying(call)
  return function(command, ...)
    if command ~= 'TIME' then check(command, ...) end
    return call(command, ...)
  end
end
local redis = { call = spying(real.call), pcall = spying(real.pcall) }
"""


def found_patterns(source: str) -> list[str]:
    """Return the beginnings of the names of keys that a script may find as it runs."""
    patterns = [p for found in FINDS.findall(source) for p in found.split()]
    return [pattern.removesuffix("*") for pattern in patterns]


def spying_scripts() -> dict[str, Script]:
    spying = {}
    for name, script in load_scripts().items():
        shebang, _, text = script.source.partition("\n")
        patterns = ", ".join(f"'{pattern}'" for pattern in found_patterns(text))
        # The prelude stands in front of every script: its heads say nothing of this one.
        spying[name] = Script.of(f"{shebang}\n{SPY % patterns}\n{text}")
    return spying


class SpyingConnection(Connection):
    """Runs spying scripts, and notes which have run."""

    def __init__(self, url, **options):
        super().__init__(url, scripts=spying_scripts(), **options)
        self.ran: set[str] = set()

    async def run(self, script, keys, *args, **beside):
        self.ran.add(script)
        return await super().run(script, keys, *args, **beside)
