-- Takes back jobs whose message never reached the broker. ARGV from 3: owner, number of idempotency
-- keys, those keys, id ...
-- Those that have begun nevertheless (the broker took it after all), and those of which a repeated
-- create was told, stay. Answers how many stayed; if none did, the keys are free again.
local owner, number = ARGV[3], tonumber(ARGV[4])
local keys, ids, stayed = list(5, number), list(5 + number), 0
for _, id in ipairs(ids) do
  local h = redis.call('HMGET', record(id), 'status', 'attempt', 'queue', 'owner', 'told',
    'body_bytes')
  local status, attempt, queue, its_owner, told = h[1], h[2], h[3], h[4], h[5]
  if status == 'queued' and attempt == '0' and not told then
    unlist(id, queue)
    redis.call('ZREM', P .. 'deadlines', id)
    redis.call('ZREM', P .. 'owner:' .. its_owner, id)
    redis.call('ZREM', P .. 'queued:' .. its_owner, id)
    release_bytes(its_owner, tonumber(h[6] or '0'))
    redis.call('DEL', record(id))
  elseif status then
    stayed = stayed + 1
  end
end
if stayed > 0 then return stayed end
for _, key in ipairs(keys) do redis.call('DEL', claim_name(owner, key)) end
return 0
