-- Leases a unit. ARGV from 3: lease_owner, lease_ms, tier, unit, attempt.
-- Answers false (stale, ended; or left behind by an older release: its slice takes no results any
-- more, and it is dropped), or {batch, slice, lines of the unit, "offset:length:lines:first",
-- batch's fields: owner, options, endpoint, input_file_id, status, ms to its end, ending, ms since its
-- dispatch, queue, attempts (JSON), then what is known of the slice: field, value, ...; of a line's
-- result only that it is there, value '': together they may be larger than a process}.
-- Asked again by the same lease owner (its answer was lost), it answers the same.
-- finds batch:* part:* the unit's record names them
local me, lease_ms, tier, id, attempt = ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local h = redis.call('HMGET', record(id), 'status', 'tier', 'attempt', 'lease_owner', 'batch',
  'slice', 'lines', 'dispatched_ms', 'queue', 'attempts')
local mine = h[1] == 'queued' or (h[1] == 'running' and h[4] == me)
if not mine or h[2] ~= tier or h[3] ~= attempt then return false end
local batch_id, slice, lines, dispatched, queue = h[5], tonumber(h[6]), h[7], h[8], h[9]
if slice >= 0 and not takes(batch_id, slice) then
  drop_unit(id, batch_id)
  return false
end
lease(id, me, queue, lease_ms)
note_begun(queue, dispatched)
local b = redis.call('HMGET', batch(batch_id), 'owner', 'options', 'endpoint', 'input_file_id',
  'status', 'expires_ms', 'ending')
local range, known = '', {}
if slice >= 0 then
  range = redis.call('LINDEX', batch(batch_id) .. ':slices', slice)
  local part = results(batch_id, slice)
  for _, field in ipairs(redis.call('HKEYS', part)) do
    local is_result = field:find('^%d')
    known[#known + 1] = field
    known[#known + 1] = is_result and '' or redis.call('HGET', part, field)
  end
end
return { batch_id, slice, lines, range, b[1], b[2], b[3], b[4], b[5],
  tonumber(b[6]) - now, b[7] or '', now - tonumber(dispatched), queue, h[10] or '[]', known }
