-- Says that the part of a slice is durable. ARGV from 3: unit, lease_owner, batch, slice, grace_ms,
-- output bytes, error bytes, window. Answers what is to be published: the next slices, or the
-- joining; nothing if this came too late.
-- finds job:* the batch's record says which slice is next, and its list which units it has
-- finds open_batches:* the batch's record names its owner
local unit, me, id, slice, grace = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local output_bytes, error_bytes, window, key = ARGV[8], ARGV[9], tonumber(ARGV[10]), batch(id)
if not leased_by(unit, me) or redis.call('HGET', record(unit), 'tier') ~= 'part' then return {} end
drop_unit(unit, id)
if redis.call('HGET', key, 'status') ~= 'in_progress' then return {} end
-- Two units may have found it complete; the part is the same, and counts once.
if redis.call('SETBIT', written(id), slice, 1) == 1 then return {} end
-- What else there is of this slice has nothing to answer any more: after the end of its batch
-- nobody would know.
local whole = 'unit_' .. id .. '_' .. slice
for _, other in ipairs(redis.call('SMEMBERS', key .. ':units')) do
  if other == whole or other:sub(1, #whole + 1) == whole .. '_' then
    drop_unit(other, id)
    redis.call('PUBLISH', P .. 'cancelled', other)
  end
end
redis.call('DEL', results(id, slice))
redis.call('RPUSH', key .. ':parts', slice .. ':' .. output_bytes .. ':' .. error_bytes)
local done = redis.call('HINCRBY', key, 'done', 1)
if done < tonumber(redis.call('HGET', key, 'slices')) then return feed(id, window, grace) end
redis.call('HSET', key, 'status', 'finalizing', 'ending', 'completed')
close_batch(id)
return { join(id, grace) }
