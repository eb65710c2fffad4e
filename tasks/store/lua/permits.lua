-- Places at a tier for the whole fleet, each leased. ARGV: prefix, tier, limit, lease_ms, then
-- what to do: 'take' token | 'give' token ... | 'renew' token ...
-- KEY {prefix}permits:{tier} zset token -> lease end. 'take' answers 1 or 0.
local key = P .. 'permits:' .. ARGV[2]
local lease = tonumber(ARGV[4])
if ARGV[5] == 'give' then
  for i = 6, #ARGV do redis.call('ZREM', key, ARGV[i]) end
  return 1
end
redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
if ARGV[5] == 'renew' then
  for i = 6, #ARGV do redis.call('ZADD', key, 'XX', now + lease, ARGV[i]) end
  return 1
end
if redis.call('ZCARD', key) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', key, now + lease, ARGV[6])
redis.call('PEXPIRE', key, lease * 2)
return 1
