-- ARGV from 3: token, generation, epoch, outcome, hold_ms, failure threshold,
-- success threshold, open_ms, saturation_hold_ms.
-- Decision: 1 taken in, 0 late. Not idempotent while closed: never sent again.
local token, outcome, open_ms = ARGV[3], ARGV[6], tonumber(ARGV[10])
if ARGV[5] ~= epoch or tonumber(ARGV[4]) ~= generation or state == 'open' then return answer(0) end
if state == 'half_open' then
  local lease = redis.call('ZSCORE', L, token)
  if not lease or tonumber(lease) <= now then return answer(0) end
  redis.call('ZREM', L, token)
end
if outcome == 'failure' then
  failures = failures + 1
  if state == 'half_open' or failures >= tonumber(ARGV[8]) then trip(open_ms) end
elseif outcome == 'success' then
  if state == 'half_open' then
    successes = successes + 1
    if successes >= tonumber(ARGV[9]) then enter('closed') end
  elseif failures == 0 then
    return answer(1)
  else
    failures = 0
  end
elseif outcome ~= 'ignored' then
  local least = outcome == 'saturated' and tonumber(ARGV[11]) or open_ms
  hold_until = math.max(hold_until, now + math.max(tonumber(ARGV[7]), least))
  hold_reason = outcome
elseif state == 'closed' then
  return answer(1)
end
save()
return answer(1)
