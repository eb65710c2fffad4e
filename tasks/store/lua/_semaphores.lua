-- A semaphore is a zset: token -> when its hold lapses. Whoever dies frees what it held.
-- No hold is longer than the lease, unless the clock was set back since it was taken.
local function holders(key, lease)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  local latest = now + lease
  for _, token in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. latest, '+inf')) do
    redis.call('ZADD', key, latest, token)
  end
  return redis.call('ZCARD', key)
end

local function hold(key, token, lease)
  redis.call('ZADD', key, now + lease, token)
  redis.call('PEXPIRE', key, lease)
end
