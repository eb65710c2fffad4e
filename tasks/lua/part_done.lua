-- The part of a slice is durable. ARGV: prefix, unit, lease_owner, batch, slice, grace_ms,
-- output bytes, error bytes. Answers what is to be published: the next slice, or the joining;
-- nothing if this came too late.
local unit, id, slice, grace = ARGV[2], ARGV[4], ARGV[5], tonumber(ARGV[6])
local h = redis.call('HMGET', record(unit), 'status', 'lease_owner', 'tier')
local key = batch(id)
if h[1] ~= 'running' or h[2] ~= ARGV[3] or h[3] ~= 'part' then return {} end
drop_unit(unit, id)
if redis.call('HGET', key, 'status') ~= 'in_progress' then return {} end
redis.call('DEL', P .. 'part:' .. id .. ':' .. slice)
redis.call('RPUSH', key .. ':parts', slice .. ':' .. ARGV[7] .. ':' .. ARGV[8])
local done = redis.call('HINCRBY', key, 'done', 1)
if done < tonumber(redis.call('HGET', key, 'slices')) then return feed(id, 1, grace) end
redis.call('HSET', key, 'status', 'finalizing', 'finalizing_ms', now, 'ending', 'completed')
redis.call('ZREM', P .. 'deadlines', id)
local join = 'unit_' .. id .. '_join'
new_unit(join, 'phases', id, -1, 'join', 'join', grace, '')
return { { join, 0, 'join', 'phases' } }
