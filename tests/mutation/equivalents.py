"""Mutants that change nothing that anybody could see, each with the reason."""

from __future__ import annotations

_LEASED = "a record has a lease owner only while it runs, which the simulation checks as it goes"
_MADE = "every record is made with its attempts, so there is always a list"
_NOTHING_ADDED = "to add 0 changes no count, and one that is not there is 0"
_SHORTCUT = "it only spares a look at answers that cannot be so deep"
_NO_TEXT = "where there is no text there is no JSON, whatever stands for it"
_CACHE = "the size of a cache of the engine's: what it holds is made again, the answer is the same"

_STALE = "ARGV[7] ~= epoch or tonumber(ARGV[6]) ~= generation"
_ITS_TIME = "no clock stands at 0: it is asked for by -1"
_ALL = "a share of 1 or more admits every call, as what is drawn is below 1"
_ONLY_THEN = "a breaker has probes in a half-open round alone: every other state begins without"

# (file, and function; the line as it is; as it is in the mutant) -> why nobody sees it.
EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "record.lua",
        f"if {_STALE} or state == 'open' then return answer(0) end",
        f"if {_STALE} then return answer(0) end",
    ): "no permit bears the generation of an open state: it was begun without one",
    (
        "_window.lua",
        "local oldest = bucket_ms > 0 and math.floor(now / bucket_ms) - BUCKETS or 0",
        "local oldest = bucket_ms > 0 and math.floor(now / bucket_ms) - BUCKETS",
    ): "a window without a length has no bucket that it could be compared with",
    (
        "_window.lua",
        "local oldest = bucket_ms > 0 and math.floor(now / bucket_ms) - BUCKETS or 0",
        "local oldest = bucket_ms >= 0 and math.floor(now / bucket_ms) - BUCKETS or 0",
    ): "a window without a length has no bucket that it could be compared with",
    ("_state.lua", "if now < 0 then", "if now <= 0 then"): _ITS_TIME,
    ("acquire.lua", "if closed_ms < R.ramp_ms then", "if true then"): _ALL,
    ("acquire.lua", "if closed_ms < R.ramp_ms then", "if closed_ms <= R.ramp_ms then"): _ALL,
    ("_view.lua", "if state == 'half_open' then", "if true then"): _ONLY_THEN,
    (
        "_jobs.lua",
        "return h[1] == 'running' and h[2] == me",
        "return h[2] == me",
    ): _LEASED,
    (
        "_jobs.lua",
        "if h[1] == 'running' and h[2] == from and at == attempt and h[4] == me then",
        "if h[2] == from and at == attempt and h[4] == me then",
    ): _LEASED,
    (
        "_jobs.lua",
        "local attempts = redis.call('HGET', record(id), 'attempts') or '[]'",
        "local attempts = redis.call('HGET', record(id), 'attempts')",
    ): _MADE,
    (
        "create_jobs.lua",
        "if open == 0 then release_bytes(owner, 0) end",
        "if true then release_bytes(owner, 0) end",
    ): _NOTHING_ADDED,
    (
        "_tallies.lua",
        "if change == 0 then return end",
        "if false then return end",
    ): _NOTHING_ADDED,
    (
        "cancel_job.lua",
        "if status == 'running' then redis.call('PUBLISH', P .. 'cancelled', id) end",
        "if true then redis.call('PUBLISH', P .. 'cancelled', id) end",
    ): "who is told of a job that it does not hold does nothing",
    (
        "finish_job.lua",
        "if entry ~= '' and not add_to_log(id, before, with, entry, ttl) then return -1 end",
        "if not add_to_log(id, before, with, entry, ttl) then return -1 end",
    ): "no entry has no chunks, and these are always there already; it spares a look",
    (
        "cancel_job.lua",
        "if not status or h[2] ~= owner then return 0 end",
        "if h[2] ~= owner then return 0 end",
    ): "a job that is not there has no owner, so it is not the asker's either",
    (
        "create_jobs.lua",
        "if number > 0 then",
        "if true then",
    ): "without keys nothing is looked for, and nothing is claimed",
    (
        "complete_slice.lua",
        "if redis.call('HGET', key, 'status') ~= 'in_progress' then return {} end",
        "if false then return {} end",
    ): "a batch that ends drops its units, so none of them is leased any more",
    (
        "discard_jobs.lua",
        "if stayed > 0 then return stayed end",
        "if true then return stayed end",
    ): "a key whose jobs are gone finds nothing, as one that is free",
    (
        "drop_unit.lua",
        "if #lines > 0 and not ended and redis.call('GETBIT', written(id), slice) == 0 then",
        "if #lines > 0 and not ended then",
    ): "it went with its slice as that was written, and nobody leases it any more",
    (
        "drop_unit.lua",
        "if #lines > 0 and not ended and redis.call('GETBIT', written(id), slice) == 0 then",
        "if true then",
    ): "it went with its slice as that was written, and nobody leases it any more",
    (
        "drop_unit.lua",
        "if #lines > 0 and not ended and redis.call('GETBIT', written(id), slice) == 0 then",
        "if not ended and redis.call('GETBIT', written(id), slice) == 0 then",
    ): "a phase drops its unit only when its batch has ended",
    (
        "drop_unit.lua",
        "if #lines > 0 and not ended and redis.call('GETBIT', written(id), slice) == 0 then",
        "if #lines > 0 and redis.call('GETBIT', written(id), slice) == 0 then",
    ): "a batch that ends drops its units, so none of them is leased any more",
    (
        "finish_job.lua",
        "if h[1] ~= 'running' or h[2] ~= tier or h[3] ~= attempt then return 0 end",
        "if h[1] ~= 'running' or h[3] ~= attempt then return 0 end",
    ): "an attempt is at one tier: each dispatch to another has a number of its own",
    (
        "move_unit.lua",
        "if answer >= 0 and #histories > 0 and takes(id, slice) then",
        "if answer >= 0 and takes(id, slice) then",
    ): "without histories none is written",
    (
        "record_lines.lua",
        "if failed > 0 then redis.call('HINCRBY', key, 'failed', failed) end",
        "if true then redis.call('HINCRBY', key, 'failed', failed) end",
    ): _NOTHING_ADDED,
    (
        "record_lines.lua",
        "if new > failed then redis.call('HINCRBY', key, 'completed', new - failed) end",
        "if true then redis.call('HINCRBY', key, 'completed', new - failed) end",
    ): _NOTHING_ADDED,
    (
        "record_lines.lua",
        "if used[kind] > 0 then redis.pcall('HINCRBY', key, name .. '_tokens', used[kind]) end",
        "if true then redis.pcall('HINCRBY', key, name .. '_tokens', used[kind]) end",
    ): _NOTHING_ADDED,
    (
        "answers.py:read_answer",
        "if brackets > MOST_NESTING and is_deeper(document, MOST_NESTING):",
        (
            "brackets > MOST_NESTING and is_deeper(document, MOST_NESTING) -> "
            "is_deeper(document, MOST_NESTING)"
        ),
    ): _SHORTCUT,
    (
        "answers.py:read_answer",
        "if brackets > MOST_NESTING and is_deeper(document, MOST_NESTING):",
        "brackets > MOST_NESTING -> brackets >= MOST_NESTING",
    ): _SHORTCUT,
    (
        "schemas.py:",
        (
            "PATTERNS = jsonschema_rs.RegexOptions("
            "size_limit=LARGEST_PATTERN, dfa_size_limit=LARGEST_PATTERN)"
        ),
        (
            "jsonschema_rs.RegexOptions(size_limit=LARGEST_PATTERN, "
            "dfa_size_limit=LARGEST_PATTERN) -> "
            "jsonschema_rs.RegexOptions(size_limit=LARGEST_PATTERN)"
        ),
    ): _CACHE,
    (
        "classify.py:retry_after",
        'text = headers.get("retry-after", "").strip()',
        "'' -> '~'",
    ): "what is no number and no date is none, as nothing is",
    (
        "classify.py:",
        "keep: bool = True",
        "True -> False",
    ): "only an answer is kept, and where there is one it is said",
    (
        "classify.py:_error_of",
        "told = f\"{error['code']} {error['type']} {text}\" if found else _plain(reply.content)",
        "' ' -> ' ~'",
    ): "it only keeps the words apart",
    (
        "classify.py:_words",
        'return ""',
        "return '' -> return None",
    ): "who asks for words takes the first that are any",
    (
        "schemas.py:_keyword",
        'if key == "patternProperties" and isinstance(value, dict):',
        ("key == 'patternProperties' and isinstance(value, dict) -> key == 'patternProperties'"),
    ): "any other value is no schema, as the engine says: it is not checked",
    (
        "needs.py:",
        'UNREADABLE = ""  # stands for a schema that is there, but cannot be written as JSON',
        "'' -> '~'",
    ): "any text that is no JSON stands for it",
    (
        "fit.py:_choice",
        'return UNCHECKED if needs.other_form else _text(said or "", needs)',
        "said or '' -> said",
    ): _NO_TEXT,
    (
        "fit.py:_choice",
        'return UNCHECKED if needs.other_form else _text(said or "", needs)',
        "'' -> '~'",
    ): _NO_TEXT,
    (
        "fit.py:_call",
        "return FITS",
        "return FITS -> return None",
    ): "a call that is neither wrong nor unchecked fits",
}
