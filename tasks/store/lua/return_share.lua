-- Gives a slot back, and has its tier's limit learn from its call. ARGV from 3: tier, token, lowest,
-- highest, how the call was ("well", "busy", "slow", or "none": nothing can be said), ms that it
-- took. Answers the limit now.
local tier, token, lowest, highest = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local how, took = ARGV[7], tonumber(ARGV[8])
local slots, key = P .. 'permits:' .. tier, limit_key(tier)
local running = redis.call('ZCARD', slots)
redis.call('ZREM', slots, token)
local known = redis.call('HMGET', key, 'limit', 'took_ms', 'lowered_ms')
local limit = limit_within(lowest, highest, known[1])
if how == 'none' then return math.floor(limit) end

local usual = tonumber(known[2] or took)
local since = known[3] and math.abs(now - tonumber(known[3])) or nil
if how == 'well' then
  redis.call('HSET', key, 'took_ms', usual + (took - usual) / 8)
  -- Where the limit is not used, nothing is learned about it.
  if running * 2 >= math.floor(limit) then
    limit = math.min(limit + step(limit, since, usual), highest)
  end
elseif not since or since >= math.max(usual, LEAST_MS) then
  if limit <= lowest then redis.call('HSET', key, 'pause_ms', now + PAUSE_MS) end
  -- Others may use the server as well: what runs of ours is all that is known to be too much.
  limit = math.min(limit, running)
  limit = math.max(math.min(limit * 0.9, limit - 1), lowest)
  redis.call('HSET', key, 'lowered_ms', now)
end
redis.call('HSET', key, 'limit', limit)
redis.call('PEXPIRE', key, LIMIT_TTL_MS)
return math.floor(limit)
