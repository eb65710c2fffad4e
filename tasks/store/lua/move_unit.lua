-- Hands a unit on, or back, or parks it. ARGV from 3: lease_owner, from_tier, to_tier,
-- grace_ms, due_in_ms (-1 = dispatch now), token, unit, attempt, batch, slice, its attempts
-- (JSON), then per line that was tried: line, its history (JSON). Answers the new attempt, or -1.
local me, from, to, grace, due = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local token, unit, attempt, id, slice = ARGV[8], ARGV[9], tonumber(ARGV[10]), ARGV[11], ARGV[12]
local attempts, histories = ARGV[13], rows(14, 2)
local answer = move(unit, me, from, attempt, to, due, token, grace)
if answer >= 0 then redis.call('HSET', record(unit), 'attempts', attempts) end
if answer >= 0 and #histories > 0 and takes(id, slice) then
  for _, line in ipairs(histories) do
    redis.call('HSET', results(id, slice), 'a' .. line[1], line[2])
  end
end
return answer
