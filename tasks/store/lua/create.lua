-- ARGV: prefix, grace_ms, ttl_ms, once_ms, number of once keys, those keys, then per job:
--       id, owner, queue, tier, deadline_in_ms, body, options, model, metadata
-- Answers {now, ''}; or {now, the ids that an earlier create with one of the keys made}.
-- Carries no allow-oom: a full store takes no new work.
local grace, ttl = tonumber(ARGV[2]), ARGV[3]
local first = 6 + tonumber(ARGV[5])
if first > 6 then
  local keys, ids = {}, {}
  for i = 6, first - 1 do keys[#keys + 1] = ARGV[i] end
  for i = first, #ARGV, 9 do ids[#ids + 1] = ARGV[i] end
  local function there(made)
    for id in made:gmatch('%S+') do
      if redis.call('EXISTS', record(id)) == 1 then return true end
    end
    return false
  end
  local made = once(ARGV[first + 1], table.concat(ids, ' '), keys, ARGV[4], there)
  if made then
    -- Somebody is told of them now: they stay, even if their own message cannot be published.
    for id in made:gmatch('%S+') do
      if redis.call('HGET', record(id), 'status') == 'queued' then
        redis.call('HSET', record(id), 'told', 1)
      end
    end
    return { now, made }
  end
end
for i = first, #ARGV, 9 do
  local id, owner, queue = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local deadline = now + tonumber(ARGV[i + 4])
  redis.call('HSET', record(id), 'id', id, 'owner', owner, 'queue', queue, 'created_ms', now,
    'deadline_ms', deadline, 'ttl_ms', ttl, 'body', ARGV[i + 5], 'options', ARGV[i + 6],
    'model', ARGV[i + 7], 'metadata', ARGV[i + 8], 'attempts', '[]', 'first_tier', ARGV[i + 3])
  start(id, queue, ARGV[i + 3], 0, grace)
  redis.call('ZADD', P .. 'owner:' .. owner, now, id)
  redis.call('ZADD', P .. 'deadlines', deadline, id)
end
return { now, '' }
