-- Cancels a batch. ARGV: prefix, id, owner, grace_ms.
-- Answers false for an unknown batch or another owner's, else what is to be published.
if redis.call('HGET', batch(ARGV[2]), 'owner') ~= ARGV[3] then return false end
local unit = close_batch(ARGV[2], 'cancelled', tonumber(ARGV[4]))
if not unit then return {} end
return { unit }
