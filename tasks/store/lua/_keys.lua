-- Every script begins with this, and with the other files whose names begin with "_".
-- ARGV[1]: the key prefix. ARGV[2]: now in ms, or -1 for the server's clock (tests pass their own).
-- KEYS declares what can be known before a script runs, so that it runs on a store in cluster mode
-- too: the prefix's hash tag keeps all keys in one slot. What a script can only find as it runs, a
-- line "-- finds" at its head names, with the reason; "-- admits" says that it takes new work.
--   {prefix}job:{id}             hash    one job; TTL only once it is finished
--   {prefix}stream:{id}          stream  what a job's answer has come to: entries of chunks, each with
--                                        the number of chunks up to its end as its id; TTL 10 minutes
--                                        from the last one (a setting)
--   {prefix}owner:{owner}        zset    id -> created_ms: what an owner can list
--   {prefix}owners               zset    owner -> when its lists are looked through again
--   {prefix}dispatched:{queue}   zset    id -> when the sweeper looks whether it has begun
--   {prefix}leases               zset    id -> when the lease of a running job ends
--   {prefix}parked               zset    id -> when a waiting job is due
--   {prefix}sent_down            hash    unit -> "tier:lines" of lines that a tier which refuses has
--                                        sent to the next one, until they leave that
--   {prefix}deadlines            zset    id -> deadline of an unfinished job
--   {prefix}queued:{owner}       zset    id -> deadline of an owner's unfinished job
--   {prefix}queued_bytes         hash    tally of the bytes of unfinished jobs' bodies
--   {prefix}open_batches         zset    id -> end of the window of a batch with lines to answer
--   {prefix}open_batches:{owner} zset    the same, of one owner
--   {prefix}begun                hash    queue -> latest dispatched_ms of a job that has begun
--   {prefix}stats                hash    counts of finished jobs, "{tier}:{status}"
--   {prefix}events               hash    counts of what happened to workers: "drains"; to tries: "unusable:…"; to
--                                        streams that had begun: "streams:{status}"
--   {prefix}latency:{minute}     hash    bucket -> finished jobs; TTL 20 minutes
--   {prefix}history:{minute}     hash    "n:{tier}:{status}" and "t:{tier}:{bucket}": what was finished, and how
--                                        long its answer took; "queued", "b:{breaker}": what samples
--                                        found; TTL 25 hours
--   {prefix}sampled              string  who samples next waits for its end; TTL of some seconds
--   {prefix}first_word:{minute}  hash    bucket -> streams that said their first word; as above
--   {prefix}streams              set     ids of jobs whose stream has begun, and not ended
--   {prefix}batches:{owner}      zset    id -> created_ms
--   {prefix}batch:{id}           hash    one batch
--   {prefix}batch:{id}:slices    list    "offset:length:lines:first line" of its input file
--   {prefix}batch:{id}:parts     list    "slice:output bytes:error bytes", as they were finished
--   {prefix}batch:{id}:times     list    "epoch seconds:lines": when lines got their results
--   {prefix}batch:{id}:written   string  a bit for each slice: whether its part is durable
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
--   {prefix}file_expiry          zset    id -> when it is deleted; of a batch: when what it may have
--                                        left on the storage is
--   {prefix}gone:{list}:{id}     string  created_ms of what left a list; TTL 10 minutes
--   {prefix}counted_files        hash    id -> "bytes owner" of each file that is counted
--   {prefix}stored_bytes         hash    tally of the bytes of those
--   {prefix}workers              zset    name -> when it is taken for gone
--   {prefix}permits:{tier}       zset    token -> when the leave to call a tier lapses
--   {prefix}tier:{breaker}       hash    what tries of the server behind it came to since its last
--                                        answer, and when that was; TTL 1 hour
--   {prefix}said:{breaker}:{what} string the log said so of it; TTL 1 minute
--   {prefix}limit:{tier}         hash    limit of calls at once to a tier, as it adapts: "limit",
--                                        "took_ms", "lowered_ms", "pause_ms"; TTL 1 day
--   {prefix}once:{owner}:{key}   string  32 characters of digest of what was sent with that key,
--                                        then the ids of what it made; TTL 15 minutes
--   {prefix}rate:{owner}:{minute} string  requests of this minute; TTL 2 minutes
--   {prefix}running:{owner}      zset    token -> when a request that never ended counts no more
--   {prefix}sweeper              string  ms of the last sweep
--   {prefix}written              string  1, so that there is something to be made durable
--   {prefix}layout               string  number of this layout of keys, once older ones are moved
--   {prefix}migration            string  who moves them now; TTL of some seconds
--   {prefix}stream:{id}          channel the same entries, as they are written
--   {prefix}room                 channel ids of units that were sent down, and have left
--   {prefix}finished             channel ids of finished jobs
--   {prefix}cancelled            channel ids of batches, and of jobs and units that ran, whose work is in vain now
local P = ARGV[1]
local now = tonumber(ARGV[2])
if now < 0 then
  local clock = redis.call('TIME')
  now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
end

-- The arguments from one on, so many or all that are left; and the same in rows of so many.
local function list(first, number)
  local found = {}
  for i = first, number and first + number - 1 or #ARGV do found[#found + 1] = ARGV[i] end
  return found
end

local function rows(first, width)
  local found = {}
  for i = first, #ARGV, width do found[#found + 1] = { unpack(ARGV, i, i + width - 1) } end
  return found
end

local function record(id) return P .. 'job:' .. id end
local function batch(id) return P .. 'batch:' .. id end
local function results(id, slice) return P .. 'part:' .. id .. ':' .. slice end
local function written(id) return P .. 'batch:' .. id .. ':written' end
