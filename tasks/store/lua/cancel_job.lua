-- Cancels a job. ARGV from 3: id, owner, 1 if only as nobody waits for it any more. Answers 0 for an unknown job or another owner's, else 1.
-- A finished job stays as it is.
-- finds queued:* the record names its owner
-- finds history:* the server's minute names it
local id, owner, left = ARGV[3], ARGV[4], ARGV[5] == '1'
local h = redis.call('HMGET', record(id), 'status', 'owner', 'told')
local status = h[1]
if not status or h[2] ~= owner then return 0 end
if unfinished(status) and not (left and tonumber(h[3] or '0') >= 0) then
  finish(id, 'cancelled', '-', {})
  if status == 'running' then redis.call('PUBLISH', P .. 'cancelled', id) end
end
return 1
