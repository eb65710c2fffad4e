-- Leases jobs that are still to be answered at a tier. ARGV from 3: lease_owner, lease_ms, tier, the
-- most bytes of a body that is answered, then per job: id, attempt.
-- Answers per job: false (stale, finished, unknown, or past its deadline), or
-- {bytes of the body, body ('': it is larger), owner, queue, ms to the deadline, options, attempts, failures,
--  ms since its dispatch, ms since its creation, 1 if a part of its answer was shown}.
-- Asked again by the same lease owner (its answer was lost), it answers the same.
-- finds queued:* the record names its owner
-- finds history:* the server's minute names it
local me, lease_ms, tier, jobs = ARGV[3], tonumber(ARGV[4]), ARGV[5], rows(7, 2)
local most = tonumber(ARGV[6])
local answers = {}
for _, job in ipairs(jobs) do
  local id, attempt = job[1], job[2]
  local h = redis.call('HMGET', record(id), 'status', 'tier', 'attempt', 'lease_owner',
    'deadline_ms', 'queue', 'body', 'owner', 'options', 'attempts', 'failures', 'dispatched_ms',
    'created_ms', 'streamed')
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
      answer = { #h[7], #h[7] <= most and h[7] or '', h[8], queue, left, h[9], h[10], h[11] or '0',
        now - tonumber(h[12]), now - tonumber(h[13]), h[14] or '0' }
    end
  end
  answers[#answers + 1] = answer
end
return answers
