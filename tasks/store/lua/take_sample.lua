-- Says whether it is the asker who samples the fleet now: one of all, once in so many ms. ARGV[3]: those.
if redis.call('SET', P .. 'sampled', 1, 'NX', 'PX', ARGV[3]) then return 1 end
return 0
