-- Notes what is to be known of a line if its worker dies now. ARGV from 3: unit, lease_owner, batch,
-- slice, line, its history (JSON). Answers 1, or 0 if the unit is no longer the asker's, or its slice
-- takes nothing any more.
local unit, me, id, slice, line, history = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
if not leased_by(unit, me) or not takes(id, slice) then return 0 end
redis.call('HSET', results(id, slice), 'a' .. line, history)
return 1
