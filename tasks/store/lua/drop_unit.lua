-- A unit has nothing left to do. ARGV: prefix, unit, lease_owner, batch
if redis.call('HGET', record(ARGV[2]), 'lease_owner') ~= ARGV[3] then return 0 end
drop_unit(ARGV[2], ARGV[4])
return 1
