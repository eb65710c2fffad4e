-- Every script begins with this. ARGV[1] is the key prefix; time is the server's, in ms.
--   {prefix}job:{id}             hash    one job; TTL only once it is finished
--   {prefix}owner:{owner}        zset    id -> created_ms: what an owner can list
--   {prefix}dispatched:{queue}   zset    id -> when the sweeper looks whether it has begun
--   {prefix}leases               zset    id -> when the lease of a running job ends
--   {prefix}parked               zset    id -> when a waiting job is due
--   {prefix}deadlines            zset    id -> deadline of an unfinished job
--   {prefix}begun                hash    queue -> latest dispatched_ms of a job that has begun
--   {prefix}stats                hash    counts of finished jobs, "{tier}:{status}"
--   {prefix}latency:{minute}     hash    bucket -> finished jobs; TTL 20 minutes
--   {prefix}finished             channel ids of finished jobs
--   {prefix}cancelled            channel ids of jobs cancelled while they ran
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
local function dispatch(id, queue, tier, attempt, grace)
  local key = record(id)
  unlist(id, queue)
  redis.call('HSET', key, 'status', 'queued', 'tier', tier, 'attempt', attempt,
    'dispatched_ms', now, 'grace_ms', grace)
  redis.call('HDEL', key, 'lease_owner')
  redis.call('ZADD', P .. 'dispatched:' .. queue, now + grace, id)
end

-- Adds a line to the attempts, which are kept as a JSON array's text.
local function note_attempt(id, tier, verdict)
  local key = record(id)
  local said = redis.call('HGET', key, 'attempts') or '[]'
  local line = '{"tier":"' .. tier .. '","verdict":"' .. verdict .. '","milliseconds":0}'
  if said == '[]' then said = '[' .. line .. ']' else said = said:sub(1, -2) .. ',' .. line .. ']' end
  redis.call('HSET', key, 'attempts', said)
end
