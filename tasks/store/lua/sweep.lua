-- Dispatches again what nobody works on, and ends what is past its deadline. One sweeper at a time.
-- ARGV from 3: who, interval_ms, grace_ms, limit, the attempt of one that was lost (JSON, %s its
-- tier), then per queue: its name, and 1 if the broker holds no message of it.
-- Answers false if another one sweeps, else a list of {id, attempt, tier, queue, reason}:
-- what the sweeper must publish now (a crash before that is found by a later sweep).
-- finds job:* batch:* the indexes name them
local who, interval, grace, limit = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local lost, queues = ARGV[7], rows(8, 2)
if not redis.call('SET', P .. 'sweeper', who, 'NX', 'PX', interval) then return false end
local found = {}

local function due(key)
  return redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, limit)
end

local function again(id, key, reason, wait)
  local h = redis.call('HMGET', record(id), 'status', 'queue', 'tier', 'attempt')
  if not unfinished(h[1]) then
    redis.call('ZREM', key, id)
    return
  end
  local attempt = tonumber(h[4]) + 1
  dispatch(id, h[2], h[3], attempt, wait)
  found[#found + 1] = { id, attempt, h[3], h[2], reason }
end

for _, id in ipairs(due(P .. 'deadlines')) do
  if id:sub(1, 6) == 'batch_' then
    local unit = end_batch(id, 'expired', grace)
    if unit then found[#found + 1] = { unit[1], unit[2], unit[3], unit[4], 'expired' } end
    redis.call('ZREM', P .. 'deadlines', id)
  elseif unfinished(redis.call('HGET', record(id), 'status')) then
    finish(id, 'expired', '-', {})
    redis.call('PUBLISH', P .. 'cancelled', id)
  else
    redis.call('ZREM', P .. 'deadlines', id)
  end
end

for _, id in ipairs(due(P .. 'leases')) do
  local tier = redis.call('HGET', record(id), 'tier')
  if tier then note_attempt(id, lost:format(tier)) end
  again(id, P .. 'leases', 'lease', grace)
end

for _, id in ipairs(due(P .. 'parked')) do again(id, P .. 'parked', 'parked', grace) end

-- A backlog is no loss: a job is taken for lost only if one dispatched later has begun, or
-- if no message is left. What is merely waiting is looked at again later.
for _, row in ipairs(queues) do
  local queue, empty = row[1], row[2] == '1'
  local key = P .. 'dispatched:' .. queue
  local latest = tonumber(redis.call('HGET', P .. 'begun', queue) or '0')
  for _, id in ipairs(due(key)) do
    local h = redis.call('HMGET', record(id), 'dispatched_ms', 'grace_ms')
    local waited = tonumber(h[2] or grace)
    if empty or tonumber(h[1] or '0') < latest then
      again(id, key, 'unbegun', waited * 2)
    else
      redis.call('ZADD', key, now + waited, id)
    end
  end
end
return found
