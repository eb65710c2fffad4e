-- Cancels a batch. ARGV from 3: id, owner, grace_ms.
-- Answers false for an unknown batch or another owner's, else what is to be published.
-- finds job:* the batch's units are in a set
-- finds open_batches:* the batch's record names its owner
local id, owner, grace = ARGV[3], ARGV[4], tonumber(ARGV[5])
if redis.call('HGET', batch(id), 'owner') ~= owner then return false end
local unit = end_batch(id, 'cancelled', grace)
if not unit then return {} end
return { unit }
