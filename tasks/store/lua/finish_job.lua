-- Ends a job. ARGV from 3: id, tier, attempt, status, tier_used, then field, value, ...
-- Answers 1 if this was the finish, 0 if it came too late: first finish wins.
-- finds latency:* the server's minute names it
-- finds queued:* the record names its owner
local id, tier, attempt, status, tier_used = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local fields = list(8)
local h = redis.call('HMGET', record(id), 'status', 'tier', 'attempt')
if h[1] ~= 'running' or h[2] ~= tier or h[3] ~= attempt then return 0 end
finish(id, status, tier_used ~= '' and tier_used or '-', fields)
return 1
