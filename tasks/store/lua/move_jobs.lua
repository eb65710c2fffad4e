-- Hands jobs on (to another tier, or back to the same one), or parks them. ARGV from 3:
-- lease_owner, from_tier, to_tier, grace_ms, due_in_ms (-1 = dispatch now), token, then per job: id, attempt, attempts (JSON), failures.
-- Answers per job the new attempt, or -1 if it is no longer the asker's.
local me, from, to, grace = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local due, token, jobs = tonumber(ARGV[7]), ARGV[8], rows(9, 4)
local answers = {}
for _, job in ipairs(jobs) do
  local id, attempt, attempts, failures = unpack(job)
  local answer = move(id, me, from, tonumber(attempt), to, due, token, grace)
  if answer >= 0 then
    redis.call('HSET', record(id), 'attempts', attempts, 'failures', failures)
  end
  answers[#answers + 1] = answer
end
return answers
