-- ARGV: prefix, lease_ms, then per job: id, lease_owner. Answers the ids that are no longer
-- the asker's: cancelled, expired, or swept to another worker.
local lease, lost = tonumber(ARGV[2]), {}
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  local h = redis.call('HMGET', record(id), 'status', 'lease_owner')
  if h[1] == 'running' and h[2] == ARGV[i + 1] then
    redis.call('ZADD', P .. 'leases', now + lease, id)
  else
    lost[#lost + 1] = id
  end
end
return lost
