-- Records a batch, and its validation as dispatched. ARGV from 3: id, owner, grace_ms, window_ms,
-- claim_ms, input file, number of idempotency keys, those keys, then the batch's field, value, ...
-- Answers the id: this one, or the one that an earlier create with one of the keys made.
-- finds batch:* one that an earlier create made is named by its key
local id, owner, grace, window = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local claim_ms, file, number = ARGV[7], P .. 'file:' .. ARGV[8], tonumber(ARGV[9])
local keys, fields = list(10, number), list(10 + number)
local function there(earlier) return redis.call('EXISTS', batch(earlier)) == 1 end
local earlier = claim(owner, id, keys, claim_ms, there)
if earlier then return earlier end
local expires = now + window
redis.call('HSET', batch(id), 'id', id, 'owner', owner, 'status', 'validating', 'created_ms', now,
  'expires_ms', expires, 'total', 0, 'completed', 0, 'failed', 0, unpack(fields))
-- Deleted in this moment: the validation says so, and nothing is noted of a file that is gone.
if redis.call('EXISTS', file) == 1 then redis.call('SADD', file .. ':batches', id) end
redis.call('ZADD', P .. 'batches:' .. owner, now, id)
redis.call('ZADD', P .. 'owners', 'NX', now, owner)
redis.call('ZADD', P .. 'deadlines', expires, id)
new_unit('unit_' .. id .. '_validate', 'phases', id, -1, 'validate', 'validate', grace, '')
return id
