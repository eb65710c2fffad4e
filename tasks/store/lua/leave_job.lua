-- Notes that a caller who waited for a job is gone without an answer. ARGV from 3: id, owner,
-- claim_ms, then the keys by which he may ask for it again.
-- Answers 1 if nobody waits for it now, else 0: others were told of it by a key.
local id, owner, ttl, keys = ARGV[3], ARGV[4], ARGV[5], list(6)
if redis.call('EXISTS', record(id)) == 0 then return 0 end
-- Whoever made it is not counted among those who were told.
if redis.call('HINCRBY', record(id), 'told', -1) >= 0 then return 0 end
for _, key in ipairs(keys) do
  redis.call('SET', claim_name(owner, key), claim_value(key, id), 'PX', ttl)
end
return 1
