-- Hands a unit on, or back, or parks it. ARGV: prefix, lease_owner, from_tier, to_tier ('' = its
-- first), grace_ms, due_in_ms (-1 = dispatch now), token, unit, attempt, batch, slice,
-- then per line that was tried: line, its attempts (JSON). Answers the new attempt, or -1.
local answer = move(ARGV[8], ARGV[2], ARGV[3], tonumber(ARGV[9]), ARGV[4], tonumber(ARGV[6]),
  ARGV[7], tonumber(ARGV[5]))
if answer >= 0 then
  local part = P .. 'part:' .. ARGV[10] .. ':' .. ARGV[11]
  for i = 12, #ARGV, 2 do redis.call('HSET', part, 'a' .. ARGV[i], ARGV[i + 1]) end
end
return answer
