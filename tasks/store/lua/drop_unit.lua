-- Drops a unit that has nothing left to do. ARGV from 3: unit, lease_owner, batch.
local unit, me, id = ARGV[3], ARGV[4], ARGV[5]
if redis.call('HGET', record(unit), 'lease_owner') ~= me then return 0 end
drop_unit(unit, id)
return 1
