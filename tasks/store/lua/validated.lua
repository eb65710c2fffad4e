-- What validation found. ARGV: prefix, unit, lease_owner, batch, grace_ms, total, errors (JSON;
-- '' = none), model, first_tier, window, ttl_ms of a failed batch, then
-- "offset:length:lines:first line" of each slice.
-- Answers the units to publish; nothing if this came too late.
local unit, id, grace = ARGV[2], ARGV[4], tonumber(ARGV[5])
local h = redis.call('HMGET', record(unit), 'status', 'lease_owner')
if h[1] ~= 'running' or h[2] ~= ARGV[3] then return {} end
drop_unit(unit, id)
local key = batch(id)
local b = redis.call('HMGET', key, 'status', 'ending')
if b[1] ~= 'validating' and not b[2] then return {} end
redis.call('HSET', key, 'total', ARGV[6], 'model', ARGV[8])
if ARGV[7] ~= '' then
  redis.call('HSET', key, 'status', 'failed', 'failed_ms', now, 'errors', ARGV[7])
  redis.call('ZREM', P .. 'deadlines', id)
  redis.call('PEXPIRE', key, ARGV[11])
  return {}
end
redis.call('HSET', key, 'slices', #ARGV - 11, 'next', 0, 'done', 0, 'first_tier', ARGV[9])
for i = 12, #ARGV do redis.call('RPUSH', key .. ':slices', ARGV[i]) end
-- Cancelled or expired meanwhile: none of its lines is asked, and all of them are told.
if b[2] then return { join(id, grace) } end
redis.call('HSET', key, 'status', 'in_progress', 'in_progress_ms', now)
return feed(id, tonumber(ARGV[10]), grace)
