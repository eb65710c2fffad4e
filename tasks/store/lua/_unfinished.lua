-- What is unfinished is counted by the indexes that name it, so that the count is right whatever
-- died: jobs until they end, batches until all of their lines are answered, cancelled or expired.
-- What has outlived its deadline counts no more, and a day later leaves the indexes that only
-- count: a process of an older release, which does not know of them, may have ended it.
local function counted(key)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - 86400000)
  return redis.call('ZCOUNT', key, '(' .. now, '+inf')
end

local function open_jobs()
  return redis.call('ZCARD', P .. 'deadlines') - counted(P .. 'open_batches')
end

-- Answers which limit keeps so many more from being taken: 'all', 'owner' or ''. A limit of 0: none.
local function full(open, more, most, own, most_of_owner)
  if most > 0 and open + more > most then return 'all' end
  if most_of_owner > 0 and counted(own) + more > most_of_owner then return 'owner' end
  return ''
end

-- The bytes of bodies are a tally; a job's record says what was counted of it ("body_bytes"), so
-- that what an older release's process created takes nothing away. What such a process ended is
-- counted until its owner has nothing unfinished.
local function release_bytes(owner, bytes)
  if redis.call('ZCARD', P .. 'queued:' .. owner) == 0 then bytes = math.huge end
  add(P .. 'queued_bytes', owner, -bytes)
end

-- Answers which limit keeps so many bytes more from being taken: 'bytes', 'owner_bytes' or ''.
local function full_of_bytes(owner, more, most, most_of_owner)
  local key = P .. 'queued_bytes'
  if most > 0 and tally(key, '') + more > most then return 'bytes' end
  if most_of_owner > 0 and tally(key, owner) + more > most_of_owner then return 'owner_bytes' end
  return ''
end

local function open_batch(id, owner, expires)
  redis.call('ZADD', P .. 'deadlines', expires, id)
  redis.call('ZADD', P .. 'open_batches', expires, id)
  redis.call('ZADD', P .. 'open_batches:' .. owner, expires, id)
end

local function close_batch(id)
  redis.call('ZREM', P .. 'deadlines', id)
  redis.call('ZREM', P .. 'open_batches', id)
  local owner = redis.call('HGET', batch(id), 'owner')
  if owner then redis.call('ZREM', P .. 'open_batches:' .. owner, id) end
end
