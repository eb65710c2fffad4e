-- The part of a slice is durable. ARGV: prefix, unit, lease_owner, batch, slice, grace_ms,
-- output bytes, error bytes. Answers what is to be published: the next slice, or the joining;
-- nothing if this came too late.
local unit, id, slice, grace = ARGV[2], ARGV[4], ARGV[5], tonumber(ARGV[6])
local h = redis.call('HMGET', record(unit), 'status', 'lease_owner', 'tier')
local key = batch(id)
if h[1] ~= 'running' or h[2] ~= ARGV[3] or h[3] ~= 'part' then return {} end
drop_unit(unit, id)
if redis.call('HGET', key, 'status') ~= 'in_progress' then return {} end
-- Two units may have found it complete; the part is the same, and counts once.
if redis.call('DEL', P .. 'part:' .. id .. ':' .. slice) == 0 then return {} end
redis.call('RPUSH', key .. ':parts', slice .. ':' .. ARGV[7] .. ':' .. ARGV[8])
local done = redis.call('HINCRBY', key, 'done', 1)
if done < tonumber(redis.call('HGET', key, 'slices')) then return feed(id, 1, grace) end
redis.call('HSET', key, 'status', 'finalizing', 'ending', 'completed')
redis.call('ZREM', P .. 'deadlines', id)
return { join(id, grace) }
