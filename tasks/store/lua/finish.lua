-- ARGV: prefix, id, tier, attempt, status, tier_used, then field, value, ...
-- Answers 1 if this was the finish, 0 if it came too late: first finish wins.
local id = ARGV[2]
local h = redis.call('HMGET', record(id), 'status', 'tier', 'attempt')
if h[1] ~= 'running' or h[2] ~= ARGV[3] or h[3] ~= ARGV[4] then return 0 end
local fields = {}
for i = 7, #ARGV do fields[#fields + 1] = ARGV[i] end
finish(id, ARGV[5], ARGV[6] ~= '' and ARGV[6] or '-', fields)
return 1
