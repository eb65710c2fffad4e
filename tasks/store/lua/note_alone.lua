-- Notes that a job, or a unit, is at work alone now. ARGV from 3: id, lease_owner, attempt.
-- Answers 1, or 0 if it is no longer the asker's.
local id, me, attempt = ARGV[3], ARGV[4], ARGV[5]
if not leased_by(id, me) then return 0 end
redis.call('HSET', record(id), 'alone', attempt)
return 1
