-- Says what validation found. ARGV from 3: unit, lease_owner, batch, grace_ms, total, errors (JSON;
-- '' = none), model, first_tier, window, ttl_ms of a failed batch, then
-- "offset:length:lines:first line" of each slice.
-- Answers the units to publish; nothing if this came too late.
-- finds open_batches:* the batch's record names its owner
local unit, me, id, grace, total = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local errors, model, first_tier, window = ARGV[8], ARGV[9], ARGV[10], tonumber(ARGV[11])
local ttl = ARGV[12]
local ranges, key = list(13), batch(id)
if not leased_by(unit, me) then return {} end
drop_unit(unit, id)
local b = redis.call('HMGET', key, 'status', 'ending')
local status, ending = b[1], b[2]
if status ~= 'validating' and not ending then return {} end
redis.call('HSET', key, 'total', total, 'model', model)
if errors ~= '' then
  redis.call('HSET', key, 'status', 'failed', 'failed_ms', now, 'errors', errors)
  close_batch(id)
  redis.call('PEXPIRE', key, ttl)
  return {}
end
redis.call('HSET', key, 'slices', #ranges, 'next', 0, 'done', 0, 'first_tier', first_tier)
for _, range in ipairs(ranges) do redis.call('RPUSH', key .. ':slices', range) end
-- Cancelled or expired meanwhile: none of its lines is asked, and all of them are told.
if ending then return { join(id, grace) } end
redis.call('HSET', key, 'status', 'in_progress', 'in_progress_ms', now)
return feed(id, window, grace)
