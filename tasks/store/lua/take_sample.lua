-- Says whether it is the asker who samples the fleet now: one of all, once in so many ms. ARGV[3]: those.
local ms = ARGV[3]
if redis.call('SET', P .. 'sampled', 1, 'NX', 'PX', ms) then return 1 end
return 0
