-- Cancels a job. ARGV from 3: id, owner. Answers 0 for an unknown job or another owner's, else 1.
-- A finished job stays as it is.
local id, owner = ARGV[3], ARGV[4]
local h = redis.call('HMGET', record(id), 'status', 'owner')
local status = h[1]
if not status or h[2] ~= owner then return 0 end
if unfinished(status) then
  finish(id, 'cancelled', '-', {})
  if status == 'running' then redis.call('PUBLISH', P .. 'cancelled', id) end
end
return 1
