-- ARGV: prefix, owner, number of once keys, those keys, id ...: takes back jobs whose message
-- never reached the broker. Those that have begun nevertheless (the broker took it after all), and
-- those of which a repeated create was told, stay. Answers how many stayed.
local stayed, first = 0, 4 + tonumber(ARGV[3])
for i = first, #ARGV do
  local id = ARGV[i]
  local known = redis.call('HMGET', record(id), 'status', 'attempt', 'queue', 'owner', 'told')
  if known[1] == 'queued' and known[2] == '0' and not known[5] then
    unlist(id, known[3])
    redis.call('ZREM', P .. 'deadlines', id)
    redis.call('ZREM', P .. 'owner:' .. known[4], id)
    redis.call('DEL', record(id))
  elseif known[1] then
    stayed = stayed + 1
  end
end
if stayed > 0 then return stayed end
for i = 4, first - 1 do redis.call('DEL', once_name(ARGV[2], ARGV[i])) end
return 0
