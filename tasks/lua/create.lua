-- ARGV: prefix, grace_ms, ttl_ms, then per job:
--       id, owner, queue, tier, deadline_in_ms, body, options, model, metadata
-- Carries no allow-oom: a full store takes no new work.
local grace, ttl = tonumber(ARGV[2]), ARGV[3]
for i = 4, #ARGV, 9 do
  local id, owner, queue = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local deadline = now + tonumber(ARGV[i + 4])
  redis.call('HSET', record(id), 'id', id, 'owner', owner, 'queue', queue, 'created_ms', now,
    'deadline_ms', deadline, 'ttl_ms', ttl, 'body', ARGV[i + 5], 'options', ARGV[i + 6],
    'model', ARGV[i + 7], 'metadata', ARGV[i + 8], 'attempts', '[]', 'first_tier', ARGV[i + 3])
  dispatch(id, queue, ARGV[i + 3], 0, grace)
  redis.call('ZADD', P .. 'owner:' .. owner, now, id)
  redis.call('ZADD', P .. 'deadlines', deadline, id)
end
return now
