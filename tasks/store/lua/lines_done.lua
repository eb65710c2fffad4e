-- Records results of lines; the first of each line wins.
-- ARGV: prefix, unit, lease_owner, lease_ms, batch, slice, lines of the slice,
--       then per line: line, "o" or "e" and its line of the file, "tier:status",
--       tokens "input:output:cached:reasoning"
-- Answers {how many were new, 1 if the slice is complete now}: then the unit is at the tier
-- "part", still leased by the asker, who is to write it. {-1, 0}: the batch takes no results now.
local unit, me, id, slice = ARGV[2], ARGV[3], ARGV[5], ARGV[6]
local key, part = batch(id), P .. 'part:' .. id .. ':' .. slice
if redis.call('HGET', key, 'status') ~= 'in_progress' then return { -1, 0 } end
local new, failed, counts, used = 0, 0, {}, { 0, 0, 0, 0 }
for i = 8, #ARGV, 4 do
  if redis.call('HSETNX', part, ARGV[i], ARGV[i + 1]) == 1 then
    new = new + 1
    if ARGV[i + 1]:sub(1, 1) == 'e' then failed = failed + 1 end
    counts[ARGV[i + 2]] = (counts[ARGV[i + 2]] or 0) + 1
    local kind = 0
    for number in ARGV[i + 3]:gmatch('%d+') do
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
if count < tonumber(ARGV[7]) then return { new, 0 } end
local h = redis.call('HMGET', record(unit), 'status', 'lease_owner', 'tier', 'attempt')
if h[1] ~= 'running' or h[2] ~= me then
  -- Swept meanwhile: whoever has the unit now finds every line answered, and writes the part.
  return { new, 0 }
end
if h[3] ~= 'part' then
  redis.call('HSET', record(unit), 'tier', 'part', 'attempt', tonumber(h[4]) + 1)
end
redis.call('ZADD', P .. 'leases', now + tonumber(ARGV[4]), unit)
return { new, 1 }
