-- Records new jobs as dispatched to their tier. ARGV from 3: grace_ms, ttl_ms, claim_ms, number of
-- idempotency keys, those keys, then per job: id, owner, queue, tier, deadline_in_ms, body,
-- options, model, metadata.
-- Answers {now, ''}; or {now, the ids that an earlier create with one of the keys made}.
-- admits
-- finds job:* those that an earlier create made are named by its key
local grace, ttl, claim_ms, number = tonumber(ARGV[3]), ARGV[4], ARGV[5], tonumber(ARGV[6])
local keys, jobs = list(7, number), rows(7 + number, 9)
if number > 0 then
  local ids = {}
  for _, job in ipairs(jobs) do ids[#ids + 1] = job[1] end
  local function there(earlier)
    for id in earlier:gmatch('%S+') do
      if redis.call('EXISTS', record(id)) == 1 then return true end
    end
    return false
  end
  local earlier = claim(jobs[1][2], table.concat(ids, ' '), keys, claim_ms, there)
  if earlier then
    -- Somebody is told of them now: they stay, even if their own message cannot be published.
    for id in earlier:gmatch('%S+') do
      if unfinished(redis.call('HGET', record(id), 'status')) then
        redis.call('HINCRBY', record(id), 'told', 1)
      end
    end
    return { now, earlier }
  end
end
for _, job in ipairs(jobs) do
  local id, owner, queue, tier, deadline_in, body, options, model, metadata = unpack(job)
  local deadline = now + tonumber(deadline_in)
  redis.call('HSET', record(id), 'id', id, 'owner', owner, 'created_ms', now,
    'deadline_ms', deadline, 'ttl_ms', ttl, 'body', body, 'options', options, 'model', model,
    'metadata', metadata, 'attempts', '[]', 'first_tier', tier)
  start(id, queue, tier, 0, grace)
  redis.call('ZADD', P .. 'owner:' .. owner, now, id)
  redis.call('ZADD', P .. 'owners', 'NX', now, owner)
  redis.call('ZADD', P .. 'deadlines', deadline, id)
end
return { now, '' }
