-- ARGV: prefix, lease_owner, lease_ms, tier, then per job: id, attempt
-- Answers per job: false (stale, finished, unknown, or past its deadline), or
-- {body, owner, queue, ms to the deadline, options, attempts, failures, first_tier,
--  ms since its dispatch, ms since its creation}.
-- Asked again by the same lease owner (its answer was lost), it answers the same.
local me, lease, tier = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local answers = {}
for i = 5, #ARGV, 2 do
  local id, attempt = ARGV[i], ARGV[i + 1]
  local key = record(id)
  local h = redis.call('HMGET', key, 'status', 'tier', 'attempt', 'lease_owner', 'deadline_ms',
    'queue', 'body', 'owner', 'options', 'attempts', 'failures', 'dispatched_ms', 'first_tier',
    'created_ms')
  local mine = h[1] == 'queued' or (h[1] == 'running' and h[4] == me)
  local answer = false
  if mine and h[2] == tier and h[3] == attempt then
    if tonumber(h[5]) <= now then
      finish(id, 'expired', '-', {})
    else
      local queue = h[6]
      redis.call('HSET', key, 'status', 'running', 'lease_owner', me)
      redis.call('HSETNX', key, 'started_ms', now)
      redis.call('ZREM', P .. 'dispatched:' .. queue, id)
      redis.call('ZADD', P .. 'leases', now + lease, id)
      local latest = tonumber(redis.call('HGET', P .. 'begun', queue) or '0')
      if tonumber(h[12]) > latest then redis.call('HSET', P .. 'begun', queue, h[12]) end
      answer = { h[7], h[8], queue, tonumber(h[5]) - now, h[9], h[10], h[11] or '0', h[13],
        now - tonumber(h[12]), now - tonumber(h[14]) }
    end
  end
  answers[#answers + 1] = answer
end
return answers
