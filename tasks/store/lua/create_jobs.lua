-- Records new jobs as dispatched to their tier. ARGV from 3: grace_ms, ttl_ms, claim_ms, how many
-- jobs may be unfinished, how many of one owner, how many bytes their bodies may have, and those of
-- one owner (0: any number), 1 if the jobs are one request's or 0 if each is one of its own, the
-- most bytes of a body that stays when its job has ended, the text of the one job's message before
-- and behind the name of its queue ('': others publish it), number of idempotency keys (of the one
-- request), those keys, then per job: id, owner, queue, tier, deadline_in_ms, body, options, model,
-- metadata.
-- Answers {now, ids, limits, queues}. ids: what an earlier create with one of the keys made, or ''.
-- limits: per request '', or the limit that it would exceed, "all", "owner", "bytes", "owner_bytes";
-- then nothing of it is recorded. queues: per request where its jobs are to be published.
-- admits
-- finds job:* those that an earlier create made are named by its key
local grace, ttl, claim_ms = tonumber(ARGV[3]), ARGV[4], ARGV[5]
local most, most_of_owner = tonumber(ARGV[6]), tonumber(ARGV[7])
local most_bytes, bytes_of_owner = tonumber(ARGV[8]), tonumber(ARGV[9])
local together, kept_bytes, number = ARGV[10] == '1', ARGV[11], tonumber(ARGV[14])
local before, behind = ARGV[12], ARGV[13]
local keys, jobs = list(15, number), rows(15 + number, 9)
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
    return { now, earlier, { '' }, { '' } }
  end
end

-- Who has few jobs does not wait behind the many of others.
-- Of all who have few only so many: what has begun, and is to go on, would wait behind them.
local FEW, BACKLOG, AHEAD = 32, 64, 1000
local function queue_of(queue, few)
  local function waiting(name) return redis.call('ZCARD', P .. 'dispatched:' .. name) end
  local first = few and waiting(queue) > BACKLOG and waiting(begun(queue)) < AHEAD
  return first and begun(queue) or queue
end

local function create(job, queue)
  local id, owner, _, tier, deadline_in, body, options, model, metadata = unpack(job)
  local deadline = now + tonumber(deadline_in)
  redis.call('HSET', record(id), 'id', id, 'owner', owner, 'created_ms', now,
    'deadline_ms', deadline, 'ttl_ms', ttl, 'body', body, 'body_bytes', #body,
    'kept_bytes', kept_bytes,
    'options', options, 'model', model, 'metadata', metadata, 'attempts', '[]')
  start(id, queue, tier, 0, grace)
  redis.call('ZADD', P .. 'owner:' .. owner, now, id)
  redis.call('ZADD', P .. 'owners', 'NX', now, owner)
  redis.call('ZADD', P .. 'queued:' .. owner, deadline, id)
  redis.call('ZADD', P .. 'deadlines', deadline, id)
end

local limits, queues, size = {}, {}, together and #jobs or 1
for first = 1, #jobs, size do
  local owner, queue, ids, bytes = jobs[first][2], jobs[first][3], {}, 0
  for i = first, first + size - 1 do bytes = bytes + #jobs[i][6] end
  local open = redis.call('ZCARD', P .. 'queued:' .. owner)
  local few = open + size <= FEW
  -- A tenth is kept for lone requests, which somebody waits for; half of it for who has few jobs.
  local share = queue ~= 'interactive' and 0.9 or few and 1 or 0.95
  local limit = full(open_jobs(), size, math.ceil(most * share), P .. 'queued:' .. owner,
    most_of_owner)
  if limit == '' then
    if open == 0 then release_bytes(owner, 0) end
    limit = full_of_bytes(owner, bytes, math.ceil(most_bytes * share), bytes_of_owner)
  end
  queue = queue_of(queue, few)
  limits[#limits + 1], queues[#queues + 1] = limit, queue
  if limit == '' then
    for i = first, first + size - 1 do
      create(jobs[i], queue)
      ids[#ids + 1] = jobs[i][1]
    end
    add(P .. 'queued_bytes', owner, bytes)
    claim(owner, table.concat(ids, ' '), keys, claim_ms)
    if before ~= '' then redis.call('LPUSH', queue, before .. queue .. behind) end
  end
end
return { now, '', limits, queues }
