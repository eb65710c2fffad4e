-- ARGV: prefix, id ...: takes back jobs whose message never reached the broker. Those that
-- have begun nevertheless (the broker took it after all) stay. Answers how many stayed.
local stayed = 0
for i = 2, #ARGV do
  local id = ARGV[i]
  local known = redis.call('HMGET', record(id), 'status', 'attempt', 'queue', 'owner')
  if known[1] == 'queued' and known[2] == '0' then
    unlist(id, known[3])
    redis.call('ZREM', P .. 'deadlines', id)
    redis.call('ZREM', P .. 'owner:' .. known[4], id)
    redis.call('DEL', record(id))
  elseif known[1] then
    stayed = stayed + 1
  end
end
return stayed
