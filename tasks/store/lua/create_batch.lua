-- ARGV: prefix, id, owner, grace_ms, window_ms, once_ms, number of once keys, those keys,
--       then field, value, ... of the batch.
-- Answers the id: this one, or the one that an earlier create with one of the keys made.
local id, owner, grace = ARGV[2], ARGV[3], tonumber(ARGV[4])
local number, keys = tonumber(ARGV[7]), {}
for i = 8, 7 + number do keys[#keys + 1] = ARGV[i] end
local function there(made) return redis.call('EXISTS', batch(made)) == 1 end
local made = once(owner, id, keys, ARGV[6], there)
if made then return made end
local fields = {}
for i = 8 + number, #ARGV do fields[#fields + 1] = ARGV[i] end
local expires = now + tonumber(ARGV[5])
redis.call('HSET', batch(id), 'id', id, 'owner', owner, 'status', 'validating', 'created_ms', now,
  'expires_ms', expires, 'total', 0, 'completed', 0, 'failed', 0, unpack(fields))
local file = P .. 'file:' .. redis.call('HGET', batch(id), 'input_file_id')
-- Deleted in this moment: the validation says so, and nothing is noted of a file that is gone.
if redis.call('EXISTS', file) == 1 then redis.call('SADD', file .. ':batches', id) end
redis.call('ZADD', P .. 'batches:' .. owner, now, id)
redis.call('ZADD', P .. 'deadlines', expires, id)
new_unit('unit_' .. id .. '_validate', 'phases', id, -1, 'validate', 'validate', grace, '')
return id
