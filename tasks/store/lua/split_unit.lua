-- Lines leave a unit early, for another tier, as a unit of their own. ARGV from 3: lease_owner,
-- unit, token, to_tier, grace_ms, batch, slice, how many lines of such units may stand at that tier
-- at once (-1: any number), then per line: line, history (JSON).
-- Answers {the new unit's id, its lines (JSON)}: the first of them, as many as there is room for; or
-- {'', ''} if none may go, the unit is no longer the asker's, or its slice takes nothing any more.
-- The same token again (its answer was lost) gives the same answer.
-- finds job:* those that were sent down are listed
local me, unit, token, to, grace = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local id, slice, most, histories = ARGV[8], ARGV[9], tonumber(ARGV[10]), rows(11, 2)
local child = 'unit_' .. id .. '_' .. slice .. '_' .. token
local made = redis.call('HGET', record(child), 'lines')
if made then return { child, made } end
if not leased_by(unit, me) or not takes(id, slice) then return { '', '' } end
local room = most < 0 and #histories or math.min(most - sent_down(to), #histories)
if room <= 0 then return { '', '' } end
local part, lines = results(id, slice), {}
for i = 1, room do
  local line, history = unpack(histories[i])
  redis.call('HSET', part, 'a' .. line, history, 'u' .. line, child)
  lines[i] = line
end
local told = '[' .. table.concat(lines, ',') .. ']'
new_unit(child, 'batch.begun', id, slice, to, grace, told)
leave_room(unit, room)
if most >= 0 then redis.call('HSET', P .. 'sent_down', child, to .. ':' .. room) end
return { child, told }
