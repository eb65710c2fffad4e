-- Nobody can read a batch's input any more. ARGV: prefix, unit, lease_owner, batch, grace_ms,
-- errors (JSON). Answers what is to be published; nothing if this came too late.
local h = redis.call('HMGET', record(ARGV[2]), 'status', 'lease_owner')
if h[1] ~= 'running' or h[2] ~= ARGV[3] then return {} end
local unit = close_batch(ARGV[4], 'completed', tonumber(ARGV[5]))
if not unit then return {} end
redis.call('HSET', batch(ARGV[4]), 'errors', ARGV[6])
return { unit }
