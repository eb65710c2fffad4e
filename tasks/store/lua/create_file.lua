-- Begins an upload. ARGV: prefix, id, owner, copy_ms (what copying its content may take),
-- claim_ms (how long its keys are claimed until they are prolonged), then its once keys.
-- Answers the id: this one, or that of an earlier upload with one of the keys, which is there or
-- still under way.
local id, owner, keys = ARGV[2], ARGV[3], {}
for i = 6, #ARGV do keys[#keys + 1] = ARGV[i] end
local expiry = P .. 'file_expiry'
local function there(made) return tonumber(redis.call('ZSCORE', expiry, made) or 0) > now end
local made = once(owner, id, keys, ARGV[5], there)
if made then return made end
-- Who dies while he copies leaves nothing behind for ever.
redis.call('ZADD', expiry, now + tonumber(ARGV[4]), id)
return id
