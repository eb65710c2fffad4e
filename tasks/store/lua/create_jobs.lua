-- Records new jobs as dispatched to their tier. ARGV from 3: grace_ms, ttl_ms, claim_ms, how many
-- jobs may be unfinished, and how many of one owner (0: any number), 1 if the jobs are one request's
-- or 0 if each is one of its own, number of idempotency keys (of the one request), those keys, then
-- per job: id, owner, queue, tier, deadline_in_ms, body, options, model, metadata.
-- Answers {now, ids, limits}. ids: what an earlier create with one of the keys made, or ''. limits:
-- per request '', or the limit that it would exceed, "all" or "owner"; then nothing of it is recorded.
-- admits
-- finds job:* those that an earlier create made are named by its key
local grace, ttl, claim_ms = tonumber(ARGV[3]), ARGV[4], ARGV[5]
local most, most_of_owner, together = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8] == '1'
local number = tonumber(ARGV[9])
local keys, jobs = list(10, number), rows(10 + number, 9)
if number > 0 then
  local function there(earlier)
    for id in earlier:gmatch('%S+') do
      if redis.call('EXISTS', record(id)) == 1 then return true end
    end
    return false
  end
  local earlier = made_before(jobs[1][2], keys, there)
  if earlier then
    -- Somebody is told of them now: they stay, even if their own message cannot be published.
    for id in earlier:gmatch('%S+') do
      if unfinished(redis.call('HGET', record(id), 'status')) then
        redis.call('HINCRBY', record(id), 'told', 1)
      end
    end
    return { now, earlier, { '' } }
  end
end

local function create(job)
  local id, owner, queue, tier, deadline_in, body, options, model, metadata = unpack(job)
  local deadline = now + tonumber(deadline_in)
  redis.call('HSET', record(id), 'id', id, 'owner', owner, 'created_ms', now,
    'deadline_ms', deadline, 'ttl_ms', ttl, 'body', body, 'options', options, 'model', model,
    'metadata', metadata, 'attempts', '[]', 'first_tier', tier)
  start(id, queue, tier, 0, grace)
  redis.call('ZADD', P .. 'owner:' .. owner, now, id)
  redis.call('ZADD', P .. 'owners', 'NX', now, owner)
  redis.call('ZADD', P .. 'queued:' .. owner, deadline, id)
  redis.call('ZADD', P .. 'deadlines', deadline, id)
end

local limits, size = {}, together and #jobs or 1
for first = 1, #jobs, size do
  local owner, ids = jobs[first][2], {}
  -- A tenth is kept for lone requests, which somebody waits for.
  local bulk = jobs[first][3] ~= 'interactive'
  local room = bulk and math.ceil(most * 0.9) or most
  local limit = full(open_jobs(), size, room, P .. 'queued:' .. owner, most_of_owner)
  limits[#limits + 1] = limit
  if limit == '' then
    for i = first, first + size - 1 do
      create(jobs[i])
      ids[#ids + 1] = jobs[i][1]
    end
    claim(owner, table.concat(ids, ' '), keys, claim_ms)
  end
end
return { now, '', limits }
