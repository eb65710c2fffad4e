-- ARGV from 5: token, generation, epoch, outcome, hold_ms, calls, slow.
-- Decision: 1 taken in, 0 late. Not idempotent while closed: never sent again.
local token, outcome, hold_ms = ARGV[5], ARGV[8], tonumber(ARGV[9])
local calls, slow = tonumber(ARGV[10]), tonumber(ARGV[11])
if ARGV[7] ~= epoch or tonumber(ARGV[6]) ~= generation or state == 'open' then return answer(0) end
if override == 'disabled' then return answer(1) end
if state == 'half_open' then
  local lease = redis.call('ZSCORE', L, token)
  if not lease or tonumber(lease) <= now then return answer(0) end
  redis.call('ZREM', L, token)
end
if outcome == 'saturated' or outcome == 'misconfigured' then
  local saturated = outcome == 'saturated'
  if saturated then
    local over = now - hold_until > R.saturation_limit_ms
    if saturated_since == 0 or over then saturated_since = now end
  end
  local least = saturated and R.saturation_hold_ms or R.open_ms
  hold_until = math.max(hold_until, now + math.max(hold_ms, least))
  hold_reason = outcome
  local limit = R.saturation_limit_ms
  if saturated and limit > 0 and now - saturated_since >= limit then outcome = 'failure' end
end
local counted = outcome == 'failure' or outcome == 'success'
if state == 'half_open' then
  if outcome == 'failure' or (counted and slow > 0 and R.slow_rate > 0) then
    trip()
  elseif counted then
    successes, saturated_since = successes + 1, 0
    if successes >= R.success_threshold then
      enter('closed')
      closed_at = now
    end
  end
elseif counted then
  local windowed = R.failure_rate > 0 or R.slow_rate > 0
  if outcome == 'success' and failures == 0 and saturated_since == 0 and not windowed then
    return answer(1)
  end
  if windowed then count_call(calls, outcome == 'failure' and calls or 0, slow) end
  if outcome == 'failure' then
    failures = failures + 1
  else
    failures, saturated_since = 0, 0
  end
  local of_window, failed, slow_ones = sums()
  local enough = of_window >= R.minimum_calls
  local failing = R.failure_rate > 0 and failed >= R.failure_rate * of_window
  local slowing = R.slow_rate > 0 and slow_ones >= R.slow_rate * of_window
  if failures >= R.failure_threshold or (enough and (failing or slowing)) then trip() end
elseif outcome == 'ignored' then
  return answer(1)
end
save()
return answer(1)
