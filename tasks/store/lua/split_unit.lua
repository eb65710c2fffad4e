-- Lines leave a unit early, for the next tier, as a unit of their own. ARGV from 3: lease_owner,
-- unit, token, to_tier, grace_ms, batch, slice, lines (JSON), then per line: line, history (JSON).
-- Answers the new unit's id, or '' if the unit is no longer the asker's, or its slice takes nothing
-- any more. The same token again (its answer was lost) gives the same answer.
local me, unit, token, to, grace = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local id, slice, lines, histories = ARGV[8], ARGV[9], ARGV[10], rows(11, 2)
local child = 'unit_' .. id .. '_' .. slice .. '_' .. token
if redis.call('EXISTS', record(child)) == 1 then return child end
if not leased_by(unit, me) or not takes(id, slice) then return '' end
local part = results(id, slice)
for _, line in ipairs(histories) do
  redis.call('HSET', part, 'a' .. line[1], line[2], 'u' .. line[1], child)
end
local first_tier = redis.call('HGET', record(unit), 'first_tier')
new_unit(child, 'batch.begun', id, slice, to, first_tier, grace, lines)
return child
