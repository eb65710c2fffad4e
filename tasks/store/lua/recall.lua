-- Dispatches now what is parked until a tier is well. ARGV from 3: tier, how many, grace_ms.
-- Answers a list of {id, attempt, tier, queue}: what the asker must publish now (a crash before that
-- is found by a sweep).
-- finds job:* the index names them
local tier, most, grace = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local LOOKED_AT = 1000  -- of what is parked, at most
local found = {}
for _, id in ipairs(redis.call('ZRANGE', P .. 'parked', 0, LOOKED_AT - 1)) do
  if #found >= most then break end
  local h = redis.call('HMGET', record(id), 'status', 'queue', 'tier', 'attempt')
  if h[1] == 'queued' and h[3] == tier then
    local attempt = tonumber(h[4]) + 1
    dispatch(id, h[2], begun(h[2]), tier, attempt, grace)
    found[#found + 1] = { id, attempt, tier, begun(h[2]) }
  end
end
return found
