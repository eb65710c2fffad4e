-- Leases jobs that are still to be answered at a tier. ARGV from 3: lease_owner, lease_ms, tier,
-- then per job: id, attempt.
-- Answers per job: false (stale, finished, unknown, or past its deadline), or
-- {body, owner, queue, ms to the deadline, options, attempts, failures, first_tier,
--  ms since its dispatch, ms since its creation}.
-- Asked again by the same lease owner (its answer was lost), it answers the same.
-- finds queued:* the record names its owner
local me, lease_ms, tier, jobs = ARGV[3], tonumber(ARGV[4]), ARGV[5], rows(6, 2)
local answers = {}
for _, job in ipairs(jobs) do
  local id, attempt = job[1], job[2]
  local h = redis.call('HMGET', record(id), 'status', 'tier', 'attempt', 'lease_owner',
    'deadline_ms', 'queue', 'body', 'owner', 'options', 'attempts', 'failures', 'dispatched_ms',
    'first_tier', 'created_ms')
  local mine = h[1] == 'queued' or (h[1] == 'running' and h[4] == me)
  local answer = false
  if mine and h[2] == tier and h[3] == attempt then
    local left, queue = tonumber(h[5]) - now, h[6]
    if left <= 0 then
      finish(id, 'expired', '-', {})
    else
      lease(id, me, queue, lease_ms)
      redis.call('HSETNX', record(id), 'started_ms', now)
      note_begun(queue, h[12])
      answer = { h[7], h[8], queue, left, h[9], h[10], h[11] or '0', h[13],
        now - tonumber(h[12]), now - tonumber(h[14]) }
    end
  end
  answers[#answers + 1] = answer
end
return answers
