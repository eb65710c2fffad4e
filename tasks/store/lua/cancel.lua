-- ARGV: prefix, id, owner. Answers 0 for an unknown job or another owner's, else 1.
-- A finished job stays as it is.
local id = ARGV[2]
local h = redis.call('HMGET', record(id), 'status', 'owner')
if not h[1] or h[2] ~= ARGV[3] then return 0 end
if unfinished(h[1]) then
  finish(id, 'cancelled', '-', {})
  if h[1] == 'running' then redis.call('PUBLISH', P .. 'cancelled', id) end
end
return 1
