-- Lines leave a unit early, for the next tier, as a unit of their own.
-- ARGV: prefix, lease_owner, unit, token, to_tier, grace_ms, batch, slice, lines (JSON),
--       then per line: line, its attempts (JSON)
-- Answers the new unit's id, or '' if the unit is no longer the asker's. The same token again
-- (its answer was lost) gives the same answer.
local unit, id, slice = ARGV[3], ARGV[7], ARGV[8]
local child = 'unit_' .. id .. '_' .. slice .. '_' .. ARGV[4]
if redis.call('EXISTS', record(child)) == 1 then return child end
local h = redis.call('HMGET', record(unit), 'status', 'lease_owner', 'first_tier')
if h[1] ~= 'running' or h[2] ~= ARGV[2] then return '' end
local part = P .. 'part:' .. id .. ':' .. slice
for i = 10, #ARGV, 2 do
  redis.call('HSET', part, 'a' .. ARGV[i], ARGV[i + 1], 'u' .. ARGV[i], child)
end
new_unit(child, 'batch', id, slice, ARGV[5], h[3], tonumber(ARGV[6]), ARGV[9])
return child
