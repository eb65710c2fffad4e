-- Begins an upload. ARGV from 3: id, owner, copy_ms (what copying its content may take), claim_ms
-- (how long its keys are claimed until that is extended), bytes of its content, the four limits of
-- files_full, then its idempotency keys.
-- Answers {id, '', 0}: this one, or that of an earlier upload with one of the keys, which is there or
-- still under way; or {'', the limit that it would exceed, how much is there}.
-- admits
local id, owner, copy_ms, claim_ms = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local bytes, limits, keys = ARGV[7], list(8, 4), list(12)
local expiry = P .. 'file_expiry'
local function there(earlier) return tonumber(redis.call('ZSCORE', expiry, earlier) or 0) > now end
local earlier = made_before(owner, keys, there)
if earlier then return { earlier, '', 0 } end
local limit = files_full(owner, bytes, limits)
if limit[1] ~= '' then return { '', unpack(limit) } end
claim(owner, id, keys, claim_ms)
-- Who dies while he copies leaves nothing behind for ever.
redis.call('ZADD', expiry, now + copy_ms, id)
return { id, '', 0 }
