local function unfinished(status) return status == 'queued' or status == 'running' end

-- The queue of what has begun once, which is consumed first; and the one where it came from.
local function fresh(queue) return (queue:gsub('%.begun$', '')) end
local function begun(queue) return fresh(queue) .. '.begun' end

-- Takes a job out of every index that says what is to happen to it next.
local function unlist(id, queue)
  redis.call('ZREM', P .. 'dispatched:' .. queue, id)
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZREM', P .. 'parked', id)
end

-- Counts how long something took among what took as long in this minute: buckets grow by 10 %,
-- bucket b holds times up to 1.1 ^ b ms.
local function note_time(kind, since)
  local bucket = math.ceil(math.log(math.max(now - tonumber(since), 1)) / math.log(1.1))
  local minute = P .. kind .. ':' .. math.floor(now / 60000)
  redis.call('HINCRBY', minute, bucket, 1)
  redis.call('EXPIRE', minute, 1200)
end

-- Counts something in the history of this minute: see store/history.py, which reads it.
local function note_history(field, number)
  local minute = P .. 'history:' .. math.floor(now / 60000)
  if redis.call('HINCRBY', minute, field, number) == number then
    redis.call('EXPIRE', minute, 90000)
  end
end

-- The one way into a final status. The caller has made sure that the job is unfinished.
-- fields: field, value, ... that come with the result. told: to who waits on that channel, if any.
local function finish(id, status, tier, fields, channel, told)
  local key = record(id)
  local known = redis.call('HMGET', key, 'queue', 'created_ms', 'ttl_ms', 'owner',
    'body_bytes', 'streamed', 'kept_bytes')
  redis.call('HSET', key, 'status', status, 'finished_ms', now)
  if #fields > 0 then redis.call('HSET', key, unpack(fields)) end
  -- A small request stays to be looked at, as its answer does.
  local kept = tonumber(known[5] or '0') <= tonumber(known[7] or '0')
  redis.call('HDEL', key, 'body_bytes', 'lease_owner', 'kept_bytes', kept and 'lease_owner' or 'body')
  redis.call('PEXPIRE', key, known[3])
  unlist(id, known[1])
  redis.call('ZREM', P .. 'deadlines', id)
  redis.call('ZREM', P .. 'queued:' .. known[4], id)
  release_bytes(known[4], tonumber(known[5] or '0'))
  redis.call('HINCRBY', P .. 'stats', tier .. ':' .. status, 1)
  note_history('n:' .. tier .. ':' .. status, 1)
  if status == 'succeeded' then note_time('latency', known[2]) end
  if known[6] then
    redis.call('SREM', P .. 'streams', id)
    redis.call('HINCRBY', P .. 'events', 'streams:' .. status, 1)
  end
  if channel and channel ~= '' then redis.call('PUBLISH', P .. channel, told) end
  redis.call('PUBLISH', P .. 'finished', id)
end

-- Puts a job on its way to a tier: whoever publishes the message must carry the new attempt.
-- start: for a record that was just made, and so is in no index and has no lease.
local function start(id, queue, tier, attempt, grace)
  redis.call('HSET', record(id), 'status', 'queued', 'queue', queue, 'tier', tier,
    'attempt', attempt, 'dispatched_ms', now, 'grace_ms', grace)
  redis.call('ZADD', P .. 'dispatched:' .. queue, now + grace, id)
end

-- from: the queue that it was in until now.
local function dispatch(id, from, queue, tier, attempt, grace)
  unlist(id, from)
  redis.call('HDEL', record(id), 'lease_owner')
  start(id, queue, tier, attempt, grace)
end

-- How many lines stand at a tier that the one above it has sent down, a bounded number at a time.
local function sent_down(tier)
  local lines, entries = 0, redis.call('HGETALL', P .. 'sent_down')
  for i = 1, #entries, 2 do
    local at, number = entries[i + 1]:match('^(.*):(%d+)$')
    if redis.call('EXISTS', record(entries[i])) == 0 then
      redis.call('HDEL', P .. 'sent_down', entries[i])
    elseif at == tier then
      lines = lines + tonumber(number)
    end
  end
  return lines
end

-- A unit, or so many of its lines, leaves the tier that it was sent down to: others have room there.
local function leave_room(id, lines)
  local at, number = (redis.call('HGET', P .. 'sent_down', id) or ''):match('^(.*):(%d+)$')
  if not at then return end
  local left = lines and tonumber(number) - lines or 0
  if left > 0 then
    redis.call('HSET', P .. 'sent_down', id, at .. ':' .. left)
  else
    redis.call('HDEL', P .. 'sent_down', id)
  end
  redis.call('PUBLISH', P .. 'room', id)
end

-- Whether a record is at work under this lease: not swept, dropped or ended meanwhile.
local function leased_by(id, me)
  local h = redis.call('HMGET', record(id), 'status', 'lease_owner')
  return h[1] == 'running' and h[2] == me
end

-- Adds an entry to the log of a job's stream, after so many chunks that are there; false if they are
-- not. Its id is the number of chunks with it, so that it is there once.
local function add_to_log(id, before, with, entry, ttl)
  local key = P .. 'stream:' .. id
  local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  local at = last and tonumber(last[1]:match('^%d+')) or 0
  if at >= with then return true end
  if at ~= before then return false end
  redis.call('XADD', key, with .. '-0', 'e', entry)
  redis.call('PEXPIRE', key, ttl)
  if at == 0 then
    redis.call('HSET', record(id), 'streamed', 1, 'first_word_ms', now)
    redis.call('SADD', P .. 'streams', id)
    note_time('first_word', redis.call('HGET', record(id), 'created_ms'))
  end
  redis.call('PUBLISH', key, entry)
  return true
end

local function lease(id, me, queue, milliseconds)
  redis.call('HSET', record(id), 'status', 'running', 'lease_owner', me)
  redis.call('ZREM', P .. 'dispatched:' .. queue, id)
  redis.call('ZADD', P .. 'leases', now + milliseconds, id)
end

-- Notes that what was dispatched then has begun: what was dispatched before, and has not, is late.
local function note_begun(queue, dispatched)
  local latest = tonumber(redis.call('HGET', P .. 'begun', queue) or '0')
  if tonumber(dispatched) > latest then redis.call('HSET', P .. 'begun', queue, dispatched) end
end

-- Adds one to the attempts, which are kept as a JSON array's text.
local function note_attempt(id, attempt)
  local attempts = redis.call('HGET', record(id), 'attempts') or '[]'
  local comma = attempts == '[]' and '' or ','
  redis.call('HSET', record(id), 'attempts', attempts:sub(1, -2) .. comma .. attempt .. ']')
end

-- Hands one record on, or parks it (due >= 0); answers its new attempt, or -1 if it is no longer
-- the asker's. The same token again (its answer was lost) gives the same answer.
local function move(id, me, from, attempt, to, due, token, grace)
  local key = record(id)
  local h = redis.call('HMGET', key, 'status', 'tier', 'attempt', 'lease_owner', 'queue',
    'moved_by')
  local at = tonumber(h[3] or '-1')
  if h[1] == 'running' and h[2] == from and at == attempt and h[4] == me then
    if to ~= from or due >= 0 then leave_room(id) end
    redis.call('HSET', key, 'moved_by', token)
    local queue = due >= 0 and fresh(h[5]) or begun(h[5])
    dispatch(id, h[5], queue, to, attempt + 1, grace)
    if due >= 0 then
      redis.call('ZREM', P .. 'dispatched:' .. queue, id)
      redis.call('ZADD', P .. 'parked', now + due, id)
    end
    return attempt + 1
  end
  if h[6] == token and h[1] == 'queued' and at == attempt + 1 then return at end
  return -1
end
