-- Every script begins with this. ARGV[1] is the key prefix; time is the server's, in ms.
--   {prefix}job:{id}             hash    one job; TTL only once it is finished
--   {prefix}owner:{owner}        zset    id -> created_ms: what an owner can list
--   {prefix}dispatched:{queue}   zset    id -> when the sweeper looks whether it has begun
--   {prefix}leases               zset    id -> when the lease of a running job ends
--   {prefix}parked               zset    id -> when a waiting job is due
--   {prefix}deadlines            zset    id -> deadline of an unfinished job
--   {prefix}begun                hash    queue -> latest dispatched_ms of a job that has begun
--   {prefix}stats                hash    counts of finished jobs, "{tier}:{status}"
--   {prefix}events               hash    counts of what happened to workers: "drains"
--   {prefix}latency:{minute}     hash    bucket -> finished jobs; TTL 20 minutes
--   {prefix}batches:{owner}      zset    id -> created_ms
--   {prefix}batch:{id}           hash    one batch
--   {prefix}batch:{id}:slices    list    "offset:length:lines:first line" of its input file
--   {prefix}batch:{id}:parts     list    "slice:output bytes:error bytes", as they were finished
--   {prefix}batch:{id}:units     set     ids of the units that are at work on it
--   {prefix}part:{id}:{slice}    hash    results of a slice until its part is written:
--                                        line -> "o" or "e" and the line of the output or error
--                                        file; "count"; a{line} -> its attempts so far;
--                                        u{line} -> the unit that it left its own for
--   {prefix}job:unit_...         hash    a unit: a slice, or lines that left it, at a tier; or a
--                                        phase of a batch (validate, part, join). Dispatched,
--                                        leased, parked and swept as jobs are.
--   {prefix}files:{owner}        zset    id -> created_ms
--   {prefix}file:{id}            hash    one file's description
--   {prefix}file:{id}:batches    set     the batches that read it
--   {prefix}file_expiry          zset    id -> when it is deleted
--   {prefix}workers              zset    name -> when it is taken for gone
--   {prefix}once:{owner}:{key}   string  32 characters of digest of what was sent with that key,
--                                        then the ids of what it made; TTL 15 minutes
--   {prefix}rate:{owner}:{minute} string  requests of this minute; TTL 2 minutes
--   {prefix}running:{owner}      zset    token -> when a request that never ended counts no more
--   {prefix}finished             channel ids of finished jobs
--   {prefix}cancelled            channel ids of jobs cancelled while they ran, and of batches
local P = ARGV[1]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function record(id) return P .. 'job:' .. id end

local function unfinished(status) return status == 'queued' or status == 'running' end

-- Takes a job out of every index that says what is to happen to it next.
local function unlist(id, queue)
  redis.call('ZREM', P .. 'dispatched:' .. queue, id)
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZREM', P .. 'parked', id)
end

-- The one way into a final status. The caller has made sure that the job is unfinished.
-- fields: field, value, ... that come with the result.
local function finish(id, status, tier, fields)
  local key = record(id)
  local known = redis.call('HMGET', key, 'queue', 'created_ms', 'ttl_ms')
  redis.call('HSET', key, 'status', status, 'finished_ms', now)
  if #fields > 0 then redis.call('HSET', key, unpack(fields)) end
  redis.call('HDEL', key, 'body', 'lease_owner')
  redis.call('PEXPIRE', key, known[3])
  unlist(id, known[1])
  redis.call('ZREM', P .. 'deadlines', id)
  redis.call('HINCRBY', P .. 'stats', tier .. ':' .. status, 1)
  if status == 'succeeded' then
    -- buckets grow by 10 %: bucket b holds latencies up to 1.1 ^ b ms
    local bucket = math.ceil(math.log(math.max(now - tonumber(known[2]), 1)) / math.log(1.1))
    local minute = P .. 'latency:' .. math.floor(now / 60000)
    redis.call('HINCRBY', minute, bucket, 1)
    redis.call('EXPIRE', minute, 1200)
  end
  redis.call('PUBLISH', P .. 'finished', id)
end

-- Puts a job on its way to a tier: whoever publishes the message must carry the new attempt.
-- start: for a record that was just made, and so is in no index and has no lease.
local function start(id, queue, tier, attempt, grace)
  redis.call('HSET', record(id), 'status', 'queued', 'tier', tier, 'attempt', attempt,
    'dispatched_ms', now, 'grace_ms', grace)
  redis.call('ZADD', P .. 'dispatched:' .. queue, now + grace, id)
end

local function dispatch(id, queue, tier, attempt, grace)
  unlist(id, queue)
  redis.call('HDEL', record(id), 'lease_owner')
  start(id, queue, tier, attempt, grace)
end

-- Adds a line to the attempts, which are kept as a JSON array's text.
local function note_attempt(id, tier, verdict)
  local key = record(id)
  local said = redis.call('HGET', key, 'attempts') or '[]'
  local line = '{"tier":"' .. tier .. '","verdict":"' .. verdict .. '","milliseconds":0}'
  if said == '[]' then said = '[' .. line .. ']' else said = said:sub(1, -2) .. ',' .. line .. ']' end
  redis.call('HSET', key, 'attempts', said)
end

-- Hands one record on, or parks it (due >= 0); answers its new attempt, or -1 if it is no longer
-- the asker's. The same token again (its answer was lost) gives the same answer.
local function move(id, me, from, attempt, to, due, token, grace)
  local key = record(id)
  local h = redis.call('HMGET', key, 'status', 'tier', 'attempt', 'lease_owner', 'queue',
    'moved_by', 'first_tier')
  local at = tonumber(h[3] or '-1')
  if h[1] == 'running' and h[2] == from and at == attempt and h[4] == me then
    local tier = to
    if tier == '' then tier = h[7] end
    redis.call('HSET', key, 'moved_by', token)
    dispatch(id, h[5], tier, attempt + 1, grace)
    if due >= 0 then
      redis.call('ZREM', P .. 'dispatched:' .. h[5], id)
      redis.call('ZADD', P .. 'parked', now + due, id)
    end
    return attempt + 1
  end
  if h[6] == token and h[1] == 'queued' and at == attempt + 1 then return at end
  return -1
end

-- Batches

local function batch(id) return P .. 'batch:' .. id end

local function new_unit(id, queue, batch_id, slice, tier, first_tier, grace, lines)
  redis.call('HSET', record(id), 'id', id, 'owner', '', 'queue', queue, 'created_ms', now,
    'attempts', '[]', 'first_tier', first_tier, 'batch', batch_id, 'slice', slice, 'lines', lines)
  redis.call('SADD', batch(batch_id) .. ':units', id)
  start(id, queue, tier, 0, grace)
end

local function drop_unit(id, batch_id)
  unlist(id, redis.call('HGET', record(id), 'queue') or 'batch')
  redis.call('DEL', record(id))
  redis.call('SREM', batch(batch_id) .. ':units', id)
end

-- Sends the next slices on their way, as far as the window allows; answers their units.
local function feed(batch_id, number, grace)
  local h = redis.call('HMGET', batch(batch_id), 'next', 'slices', 'first_tier')
  local first, made = tonumber(h[1]), {}
  local last = math.min(first + number, tonumber(h[2])) - 1
  for slice = first, last do
    local id = 'unit_' .. batch_id .. '_' .. slice
    new_unit(id, 'batch', batch_id, slice, h[3], h[3], grace, '')
    made[#made + 1] = { id, 0, h[3], 'batch' }
  end
  redis.call('HSET', batch(batch_id), 'next', last + 1)
  return made
end

-- Has the files of a batch made from what is there; answers the unit to publish.
local function join(batch_id, grace)
  redis.call('HSET', batch(batch_id), 'finalizing_ms', now)
  local id = 'unit_' .. batch_id .. '_join'
  new_unit(id, 'phases', batch_id, -1, 'join', 'join', grace, '')
  return { id, 0, 'join', 'phases' }
end

-- Ends a batch's work: what runs is dropped, what is there is joined. Answers the unit to publish,
-- or false if it has ended, or is ending, already.
local function close_batch(batch_id, ending, grace)
  local key = batch(batch_id)
  local status = redis.call('HGET', key, 'status')
  if status ~= 'validating' and status ~= 'in_progress' then return false end
  redis.call('ZREM', P .. 'deadlines', batch_id)
  local shown = 'finalizing'
  if ending == 'cancelled' then
    shown = 'cancelling'
    redis.call('HSET', key, 'cancelling_ms', now)
  end
  redis.call('HSET', key, 'status', shown, 'ending', ending)
  -- Nobody knows its lines yet: the validation goes on, and joins what it finds, unanswered.
  if status == 'validating' then return false end
  for _, id in ipairs(redis.call('SMEMBERS', key .. ':units')) do drop_unit(id, batch_id) end
  redis.call('PUBLISH', P .. 'cancelled', batch_id)
  return join(batch_id, grace)
end

-- A key of a create: "?" if it asks whether it was made before, or "!" if it is only noted, for
-- one that asks later; 32 characters of digest of what was sent; its name.
local function once_name(owner, key) return P .. 'once:' .. owner .. ':' .. key:sub(34) end
local function once_value(key, id) return key:sub(2, 33) .. id end

-- Answers what an earlier create with one of these keys made, if it is there() still; or claims
-- them for id. The error REUSED: it was made with the same key, from something else.
local function once(owner, id, keys, ttl, there)
  for _, key in ipairs(keys) do
    local known = key:sub(1, 1) == '?' and redis.call('GET', once_name(owner, key))
    if known and there(known:sub(33)) then
      if known:sub(1, 32) ~= key:sub(2, 33) then error({ err = 'REUSED key' }) end
      return known:sub(33)
    end
  end
  for _, key in ipairs(keys) do
    redis.call('SET', once_name(owner, key), once_value(key, id), 'PX', ttl)
  end
  return false
end
