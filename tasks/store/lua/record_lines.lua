-- Records results of lines; the first of each line wins. ARGV from 3: unit, lease_owner, lease_ms,
-- batch, slice, lines of the slice, then per line: line, "o" or "e" and its line of the file,
-- "tier:status", tokens "input:output:cached:reasoning".
-- Answers {how many were new, 1 if the slice is complete now}: then the unit is at the tier
-- "part", still leased by the asker, who is to write it. {-1, 0}: the batch takes no results now,
-- or none of this slice, whose part is written.
local unit, me, lease_ms, id, slice = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7]
local lines, results_now = tonumber(ARGV[8]), rows(9, 4)
local key, part = batch(id), results(id, slice)
if redis.call('HGET', key, 'status') ~= 'in_progress' then return { -1, 0 } end
-- Whoever comes so late was paused, or is a doubled message's: what is written stays as it is.
if redis.call('GETBIT', written(id), slice) == 1 then return { -1, 0 } end
local new, failed, counts, used = 0, 0, {}, { 0, 0, 0, 0 }
for _, result in ipairs(results_now) do
  local line, stored, counted_as, tokens = unpack(result)
  if redis.call('HSETNX', part, line, stored) == 1 then
    new = new + 1
    if stored:sub(1, 1) == 'e' then failed = failed + 1 end
    counts[counted_as] = (counts[counted_as] or 0) + 1
    local kind = 0
    for number in tokens:gmatch('%d+') do
      kind = kind + 1
      used[kind] = used[kind] + tonumber(number)
    end
  end
end
-- First, and before all that may fail: a batch whose count falls behind its lines never ends.
local count = redis.call('HINCRBY', part, 'count', new)
for name, number in pairs(counts) do
  redis.call('HINCRBY', P .. 'stats', name, number)
  redis.call('HINCRBY', key, 'by:' .. name, number)
end
if failed > 0 then redis.call('HINCRBY', key, 'failed', failed) end
if new > failed then redis.call('HINCRBY', key, 'completed', new - failed) end
-- pcall: a server may claim numbers that no counter holds.
for kind, name in ipairs({ 'input', 'output', 'cached', 'reasoning' }) do
  if used[kind] > 0 then redis.pcall('HINCRBY', key, name .. '_tokens', used[kind]) end
end
-- Swept meanwhile: whoever has the unit now finds every line answered, and writes the part.
if count < lines or not leased_by(unit, me) then return { new, 0 } end
local h = redis.call('HMGET', record(unit), 'tier', 'attempt')
if h[1] ~= 'part' then
  redis.call('HSET', record(unit), 'tier', 'part', 'attempt', tonumber(h[2]) + 1)
end
redis.call('ZADD', P .. 'leases', now + lease_ms, unit)
return { new, 1 }
