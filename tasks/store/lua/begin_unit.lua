-- Leases a unit. ARGV: prefix, lease_owner, lease_ms, tier, unit, attempt
-- Answers false (stale, ended), or {batch, slice, lines of the unit, "offset:length:lines:first",
-- batch's fields: owner, options, endpoint, input_file_id, status, ms to its end, ending,
-- ms since its dispatch,
-- then the slice's results so far: field, value, ...}.
-- Asked again by the same lease owner (its answer was lost), it answers the same.
local me, lease, tier, id = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local key = record(id)
local h = redis.call('HMGET', key, 'status', 'tier', 'attempt', 'lease_owner', 'batch', 'slice',
  'lines', 'dispatched_ms', 'queue')
local mine = h[1] == 'queued' or (h[1] == 'running' and h[4] == me)
if not mine or h[2] ~= tier or h[3] ~= ARGV[6] then return false end
redis.call('HSET', key, 'status', 'running', 'lease_owner', me)
unlist(id, h[9])
redis.call('ZADD', P .. 'leases', now + lease, id)
local latest = tonumber(redis.call('HGET', P .. 'begun', h[9]) or '0')
if tonumber(h[8]) > latest then redis.call('HSET', P .. 'begun', h[9], h[8]) end
local b = redis.call('HMGET', batch(h[5]), 'owner', 'options', 'endpoint', 'input_file_id',
  'status', 'expires_ms', 'ending')
local place, results = '', {}
if tonumber(h[6]) >= 0 then
  place = redis.call('LINDEX', batch(h[5]) .. ':slices', h[6])
  results = redis.call('HGETALL', P .. 'part:' .. h[5] .. ':' .. h[6])
end
return { h[5], tonumber(h[6]), h[7], place, b[1], b[2], b[3], b[4], b[5],
  tonumber(b[6]) - now, b[7] or '', now - tonumber(h[8]), results }
