-- Dispatches again what nobody works on, and ends what is past its deadline. One sweep in so long.
-- ARGV from 3: interval_ms, grace_ms, longest_ms (that a message, or what is parked, waits for the
-- next look), lease_ms, limit, how many losses make a job suspicious, the attempts of one that was
-- lost, and of one that was lost alone (JSON, %s its tier), then per queue: its name, and 1 if the
-- broker holds no message of it.
-- Answers false if it is too early, else a list of {id, attempt, tier, queue, reason}:
-- what the sweeper must publish now (a crash before that is found by a later sweep).
-- finds job:* batch:* queued:* open_batches:* the indexes name them, and their owners
-- finds history:* the server's minute names it
local interval, grace, longest = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local lease_ms, limit, suspicious = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local lost, lost_alone, queues = ARGV[9], ARGV[10], rows(11, 2)

-- A time, not a key that expires: that would last longer by as much as the clock is set back.
local last = tonumber(redis.call('GET', P .. 'sweeper') or '0') or 0
if now >= last and now < last + interval then return false end
redis.call('SET', P .. 'sweeper', now)
local found = {}

local function due(key)
  return redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, limit)
end

-- Nothing is further away than this, unless the clock was set back since it was noted.
local function bring_near(key, at)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. at, '+inf', 'LIMIT', 0, limit)) do
    redis.call('ZADD', key, at, id)
  end
end

local function again(id, key, reason, wait, to)
  local h = redis.call('HMGET', record(id), 'status', 'queue', 'tier', 'attempt')
  if not unfinished(h[1]) then
    redis.call('ZREM', key, id)
    return
  end
  local attempt, queue = tonumber(h[4]) + 1, to and to(h[2]) or h[2]
  dispatch(id, h[2], queue, h[3], attempt, wait)
  found[#found + 1] = { id, attempt, h[3], queue, reason }
end

-- Who waited for the turn to be called alone is not what the worker died of.
local function note_loss(id)
  local h = redis.call('HMGET', record(id), 'tier', 'attempt', 'alone', 'attempts')
  if not h[1] then return end
  local _, losses = (h[4] or ''):gsub('"verdict":"lost"', '')
  if h[2] == h[3] then
    note_attempt(id, lost_alone:format(h[1]))
  elseif losses < suspicious then
    note_attempt(id, lost:format(h[1]))
  end
end

for _, id in ipairs(due(P .. 'deadlines')) do
  if id:sub(1, 6) == 'batch_' then
    local unit = end_batch(id, 'expired', grace)
    if unit then found[#found + 1] = { unit[1], unit[2], unit[3], unit[4], 'expired' } end
    close_batch(id)
  elseif unfinished(redis.call('HGET', record(id), 'status')) then
    finish(id, 'expired', '-', {})
    redis.call('PUBLISH', P .. 'cancelled', id)
  else
    redis.call('ZREM', P .. 'deadlines', id)
  end
end

bring_near(P .. 'leases', now + lease_ms)
-- Nobody has swept for long: the store was away, or its clock was set. Then nobody could renew a
-- lease either, and whoever holds one has the time to do so.
local away = last > 0 and (now < last or now > last + 2 * interval + lease_ms / 8)
for _, id in ipairs(due(P .. 'leases')) do
  if away then
    redis.call('ZADD', P .. 'leases', now + lease_ms, id)
  else
    note_loss(id)
    again(id, P .. 'leases', 'lease', grace, begun)
  end
end

bring_near(P .. 'parked', now + longest)
for _, id in ipairs(due(P .. 'parked')) do again(id, P .. 'parked', 'parked', grace) end

-- A backlog is no loss: a job is taken for lost only if one dispatched later has begun, or
-- if no message is left. What is merely waiting is looked at again later.
for _, row in ipairs(queues) do
  local queue, empty = row[1], row[2] == '1'
  local key = P .. 'dispatched:' .. queue
  bring_near(key, now + math.max(grace, longest))
  local latest = tonumber(redis.call('HGET', P .. 'begun', queue) or '0')
  if latest > now then  -- by a clock that was set back since
    latest = 0
    redis.call('HDEL', P .. 'begun', queue)
  end
  for _, id in ipairs(due(key)) do
    local h = redis.call('HMGET', record(id), 'dispatched_ms', 'grace_ms')
    local waited = tonumber(h[2] or grace)
    if empty or tonumber(h[1] or '0') < latest then
      -- It had its turn already, so it does not stand behind all that came after it.
      again(id, key, 'unbegun', math.max(math.min(waited * 2, longest), grace), begun)
    else
      redis.call('ZADD', key, now + waited, id)
    end
  end
end
return found
