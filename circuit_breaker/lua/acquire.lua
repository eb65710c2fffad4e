-- ARGV from 5: token, new epoch.
-- Decision: 1 permit, 2 probe's permit, 0 open, -1 held, -2 others probe, -3 ramping up,
-- -4 forced open.
local token = ARGV[5]
if epoch == '' then
  epoch = ARGV[6]
  save()
end
if override == 'open' then return answer(-4, FORCED_WAIT_MS) end
if hold_until > now then return answer(-1, hold_until - now) end
if state == 'closed' then -- as it is while an override disables it
  local closed_ms = now - closed_at -- since its clock began, if it never was open
  if closed_ms < R.ramp_ms then
    local share = LEAST_SHARE + (1 - LEAST_SHARE) * closed_ms / R.ramp_ms
    if draw >= share then return answer(-3, RAMP_WAIT_MS) end
  end
  return answer(1)
end
if state == 'open' then
  if now < open_until then return answer(0, open_until - now) end
  enter('half_open')
end
lost = lost + redis.call('ZREMRANGEBYSCORE', L, '-inf', now)
if lost >= LOST_PROBES then
  trip()
  save()
  return answer(0, open_for)
end
local decision, wait = 2, 0
if redis.call('ZCARD', L) < R.permits then
  redis.call('ZADD', L, now + R.lease_ms, token)
else
  local first = redis.call('ZRANGE', L, 0, 0, 'WITHSCORES')
  decision, wait = -2, tonumber(first[2]) - now
end
save()
return answer(decision, wait)
