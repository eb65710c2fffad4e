-- ARGV from 3: token, new epoch, permits, open_ms, lease_ms, lost probes that reopen.
-- Decision: 1 permit, 2 probe's permit, 0 open, -1 held, -2 others probe.
local token, permits, open_ms = ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6])
if epoch == '' then
  epoch = ARGV[4]
  save()
end
if hold_until > now then return answer(-1, hold_until - now) end
if state == 'closed' then return answer(1) end
if state == 'open' then
  if now < open_until then return answer(0, open_until - now) end
  enter('half_open')
end
lost = lost + redis.call('ZREMRANGEBYSCORE', L, '-inf', now)
if lost >= tonumber(ARGV[8]) then
  trip(open_ms)
  save()
  return answer(0, open_ms)
end
local decision, wait = 2, 0
if redis.call('ZCARD', L) < permits then
  redis.call('ZADD', L, now + tonumber(ARGV[7]), token)
else
  local first = redis.call('ZRANGE', L, 0, 0, 'WITHSCORES')
  decision, wait = -2, tonumber(first[2]) - now
end
save()
return answer(decision, wait)
