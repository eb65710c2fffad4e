-- Begins an upload. ARGV from 3: id, owner, copy_ms (what copying its content may take), claim_ms
-- (how long its keys are claimed until that is extended), then its idempotency keys.
-- Answers the id: this one, or that of an earlier upload with one of the keys, which is there or
-- still under way.
-- admits
local id, owner, copy_ms, claim_ms, keys = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], list(7)
local expiry = P .. 'file_expiry'
local function there(earlier) return tonumber(redis.call('ZSCORE', expiry, earlier) or 0) > now end
local earlier = made_before(owner, keys, there)
if earlier then return earlier end
claim(owner, id, keys, claim_ms)
-- Who dies while he copies leaves nothing behind for ever.
redis.call('ZADD', expiry, now + copy_ms, id)
return id
