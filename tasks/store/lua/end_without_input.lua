-- Ends a batch, as nobody can read its input any more. ARGV from 3: unit, lease_owner, batch,
-- grace_ms, errors (JSON). Answers what is to be published; nothing if this came too late.
-- finds job:* the batch's units are in a set
-- finds open_batches:* the batch's record names its owner
local unit, me, id, grace, errors = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
if not leased_by(unit, me) then return {} end
local joining = end_batch(id, 'completed', grace)
if not joining then return {} end
redis.call('HSET', batch(id), 'errors', errors)
return { joining }
