-- Hands jobs on (to another tier, or back to the same one), or parks them.
-- ARGV: prefix, lease_owner, from_tier, to_tier ('' = the job's first), grace_ms,
--       due_in_ms (-1 = dispatch now), token, then per job: id, attempt, attempts, failures
-- Answers per job the new attempt, or -1 if it is no longer the asker's.
-- The same token again (its answer was lost) gives the same answer.
local me, from, to = ARGV[2], ARGV[3], ARGV[4]
local grace, due, token = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local answers = {}
for i = 8, #ARGV, 4 do
  local id, attempt = ARGV[i], tonumber(ARGV[i + 1])
  local key = record(id)
  local h = redis.call('HMGET', key, 'status', 'tier', 'attempt', 'lease_owner', 'queue',
    'moved_by', 'first_tier')
  local at = tonumber(h[3] or '-1')
  local answer = -1
  if h[1] == 'running' and h[2] == from and at == attempt and h[4] == me then
    local tier = to
    if tier == '' then tier = h[7] end
    redis.call('HSET', key, 'attempts', ARGV[i + 2], 'failures', ARGV[i + 3], 'moved_by', token)
    dispatch(id, h[5], tier, attempt + 1, grace)
    if due >= 0 then
      redis.call('ZREM', P .. 'dispatched:' .. h[5], id)
      redis.call('ZADD', P .. 'parked', now + due, id)
    end
    answer = attempt + 1
  elseif h[6] == token and h[1] == 'queued' and at == attempt + 1 then
    answer = at
  end
  answers[#answers + 1] = answer
end
return answers
