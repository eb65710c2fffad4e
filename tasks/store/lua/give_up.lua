-- Gives up a phase that its workers die of. ARGV from 3: unit, lease_owner, batch, grace_ms, errors
-- (JSON), ttl_ms of a batch that fails as it stands.
-- Where lines are still answered the batch ends, and what is there is joined. Before that nobody
-- knows its lines, and after it the joining is what is given up: the batch fails as it stands, and
-- its parts stay as long as it does.
-- Answers what is to be published; nothing if this came too late.
-- finds job:* the batch's units are in a set
-- finds open_batches:* the batch's record names its owner
-- finds part:* the batch's record says how many slices it has
local unit, me, id, grace, errors = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local ttl, key = tonumber(ARGV[8]), batch(ARGV[5])
if not leased_by(unit, me) then return {} end
local joining = end_batch(id, 'failed', grace)
if joining then
  redis.call('HSET', key, 'errors', errors)
  return { joining }
end
drop_unit(unit, id)
local b = redis.call('HMGET', key, 'status', 'slices')
-- What it leaves on the storage is cleared when it is forgotten, by none of its phases.
redis.call('ZADD', P .. 'file_expiry', now + ttl, id)
if b[1] ~= 'finalizing' and b[1] ~= 'cancelling' then return {} end
redis.call('HSET', key, 'status', 'failed', 'failed_ms', now, 'errors', errors)
for slice = 0, tonumber(b[2] or '0') - 1 do redis.call('DEL', results(id, slice)) end
keep_batch(id, ttl)
return {}
