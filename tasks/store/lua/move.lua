-- Hands jobs on (to another tier, or back to the same one), or parks them.
-- ARGV: prefix, lease_owner, from_tier, to_tier ('' = the job's first), grace_ms,
--       due_in_ms (-1 = dispatch now), token, then per job: id, attempt, attempts, failures
-- Answers per job the new attempt, or -1 if it is no longer the asker's.
local me, from, to = ARGV[2], ARGV[3], ARGV[4]
local grace, due, token = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local answers = {}
for i = 8, #ARGV, 4 do
  local id = ARGV[i]
  local answer = move(id, me, from, tonumber(ARGV[i + 1]), to, due, token, grace)
  if answer >= 0 then
    redis.call('HSET', record(id), 'attempts', ARGV[i + 2], 'failures', ARGV[i + 3])
  end
  answers[#answers + 1] = answer
end
return answers
