-- Records a batch, and its validation as dispatched. ARGV from 3: id, owner, grace_ms, window_ms,
-- claim_ms, how many batches may be unfinished, and how many of one owner (0: any number), input
-- file, number of idempotency keys, those keys, then the batch's field, value, ...
-- Answers {id, '', what is to be published}; or {id, '', {}}, the id being that of the one which an
-- earlier create with one of the keys made, even if its input is gone by now; or {'', the limit that it
-- would exceed, "all" or "owner", {}}; or {'', 'file', {}}: the owner has no such input.
-- admits
-- finds batch:* one that an earlier create made is named by its key
local id, owner, grace, window = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local claim_ms, most, most_of_owner = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local file, number = P .. 'file:' .. ARGV[10], tonumber(ARGV[11])
local keys, fields = list(12, number), list(12 + number)
local function there(earlier) return redis.call('EXISTS', batch(earlier)) == 1 end
local earlier = made_before(owner, keys, there)
if earlier then return { earlier, '', {} } end
local h = redis.call('HMGET', file, 'owner', 'expires_ms', 'bytes')
if h[1] ~= owner or tonumber(h[2]) <= now then return { '', 'file', {} } end
local limit = full(counted(P .. 'open_batches'), 1, most, P .. 'open_batches:' .. owner,
  most_of_owner)
if limit ~= '' then return { '', limit, {} } end
claim(owner, id, keys, claim_ms)
local expires = now + window
redis.call('HSET', batch(id), 'id', id, 'owner', owner, 'status', 'validating', 'created_ms', now,
  'expires_ms', expires, 'total', 0, 'completed', 0, 'failed', 0, unpack(fields))
redis.call('SADD', file .. ':batches', id)
redis.call('ZADD', P .. 'batches:' .. owner, now, id)
redis.call('ZADD', P .. 'owners', 'NX', now, owner)
open_batch(id, owner, expires)
return { id, '', { new_phase(id, 'validate', tonumber(h[3]) <= SLICE_BYTES, grace) } }
