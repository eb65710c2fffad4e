-- Renews leases. ARGV from 3: lease_ms, then per job: id, lease_owner.
-- Answers the ids that are no longer the asker's: cancelled, expired, or swept to another worker.
local lease_ms, leases, lost = tonumber(ARGV[3]), rows(4, 2), {}
for _, held in ipairs(leases) do
  local id, me = held[1], held[2]
  if leased_by(id, me) then
    redis.call('ZADD', P .. 'leases', now + lease_ms, id)
  else
    lost[#lost + 1] = id
  end
end
return lost
