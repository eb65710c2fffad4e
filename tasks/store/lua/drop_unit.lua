-- Drops a unit that has nothing left to do. ARGV from 3: unit, lease_owner, batch, slice, whose its
-- lines are ('' = the whole slice's unit), then those lines; a phase has none.
-- Answers 1, 0 if it is no longer the asker's, or -1 if a line of its own has no result: a store that
-- lost its last second has forgotten what the asker was told, and the unit is to run again.
local unit, me, id, slice, home, lines = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], list(8)
if redis.call('HGET', record(unit), 'lease_owner') ~= me then return 0 end
local ended = redis.call('HGET', batch(id), 'status') ~= 'in_progress'
if #lines > 0 and not ended and redis.call('GETBIT', written(id), slice) == 0 then
  for _, line in ipairs(lines) do
    local h = redis.call('HMGET', results(id, slice), line, 'u' .. line)
    if not h[1] and (h[2] or '') == home then return -1 end
  end
end
drop_unit(unit, id)
return 1
