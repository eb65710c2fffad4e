-- A semaphore is a zset: token -> when its hold lapses. Whoever dies frees what it held.
local function holders(key)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  return redis.call('ZCARD', key)
end

local function hold(key, token, lease)
  redis.call('ZADD', key, now + lease, token)
  redis.call('PEXPIRE', key, lease)
end
