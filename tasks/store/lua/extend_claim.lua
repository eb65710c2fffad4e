-- Extends what a create has claimed, as long as it is its own; 0 frees it.
-- ARGV from 3: owner, id, ttl_ms, then its idempotency keys.
local owner, id, ttl, keys = ARGV[3], ARGV[4], ARGV[5], list(6)
for _, key in ipairs(keys) do
  local name = claim_name(owner, key)
  if redis.call('GET', name) == claim_value(key, id) then redis.call('PEXPIRE', name, ttl) end
end
