-- Records results of lines; the first of each line wins. ARGV from 3: unit, lease_owner, lease_ms,
-- batch, slice, lines of the slice, then per line: line, "o" or "e" and its line of the file,
-- "tier:status", tokens "input:output:cached:reasoning", and the tier and the model that answered it,
-- "tier:model", or "", and the bucket of how long that took, or "".
-- Answers {how many were new, 1 if the slice is complete now}: then the unit is at the tier
-- "part", still leased by the asker, who is to write it. {-1, 0}: the batch takes no results now,
-- or none of this slice, whose part is written.
-- finds history:* the server's minute names it
local unit, me, lease_ms, id, slice = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7]
local lines, results_now = tonumber(ARGV[8]), rows(9, 6)
local key, part = batch(id), results(id, slice)
local MOST_MODELS = 50  -- that a batch tells apart; lines of further ones are a tier's "other"
-- A server may answer under ever new names; a record does not grow with them.
local function model_field(key, model)
  local field = 'model:' .. model
  if redis.call('HEXISTS', key, field) == 1 then return field end
  if tonumber(redis.call('HGET', key, 'models') or 0) >= MOST_MODELS then
    return 'model:' .. model:match('^[^:]*') .. ':other'
  end
  redis.call('HINCRBY', key, 'models', 1)
  return field
end
-- Counts new results in slots of 5 s, of which a batch keeps the last 8: records/pace.py reads them.
local function note_pace(key, number)
  local slot = math.floor(now / 5000)
  local field = 'recent:' .. slot % 8
  local at, before = (redis.call('HGET', key, field) or ''):match('^(%d+):(%d+)$')
  local sum = tonumber(at) == slot and before + number or number
  redis.call('HSET', key, field, string.format('%d:%d', slot, sum))
end
-- Counts new results in the list of when they came. An entry is of one second, and later of 2, 4, …:
-- of four at least in each of the buckets that records/pace.py makes of the list.
local function note_when(times, number, began)
  local step = 1
  while now - began >= 2 * step * 480000 do step = 2 * step end
  local at = math.floor(now / 1000 / step) * step
  local last, before = (redis.call('LINDEX', times, -1) or ''):match('^(%d+):(%d+)$')
  if tonumber(last) == at then
    redis.call('LSET', times, -1, string.format('%d:%d', at, before + number))
  else
    redis.call('RPUSH', times, string.format('%d:%d', at, number))
  end
end
local batch_now = redis.call('HMGET', key, 'status', 'in_progress_ms')
if batch_now[1] ~= 'in_progress' then return { -1, 0 } end
-- Whoever comes so late was paused, or is a doubled message's: what is written stays as it is.
if redis.call('GETBIT', written(id), slice) == 1 then return { -1, 0 } end
local new, failed, counts, models, times, used = 0, 0, {}, {}, {}, { 0, 0, 0, 0 }
for _, result in ipairs(results_now) do
  local line, stored, counted_as, tokens, model, took = unpack(result)
  if redis.call('HSETNX', part, line, stored) == 1 then
    new = new + 1
    if stored:sub(1, 1) == 'e' then failed = failed + 1 end
    counts[counted_as] = (counts[counted_as] or 0) + 1
    if model ~= '' then models[model] = (models[model] or 0) + 1 end
    if took ~= '' then
      local name = counted_as:match('^[^:]*') .. ':' .. took
      times[name] = (times[name] or 0) + 1
    end
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
  note_history('n:' .. name, number)
end
for name, number in pairs(times) do note_history('t:' .. name, number) end
for name, number in pairs(models) do redis.call('HINCRBY', key, model_field(key, name), number) end
if failed > 0 then redis.call('HINCRBY', key, 'failed', failed) end
if new > failed then redis.call('HINCRBY', key, 'completed', new - failed) end
if new > 0 then
  note_pace(key, new)
  note_when(key .. ':times', new, tonumber(batch_now[2]))
end
-- pcall: a server may claim numbers that no counter holds.
for kind, name in ipairs({ 'input', 'output', 'cached', 'reasoning' }) do
  if used[kind] > 0 then redis.pcall('HINCRBY', key, name .. '_tokens', used[kind]) end
end
leave_room(unit, #results_now)
-- Swept meanwhile: whoever has the unit now finds every line answered, and writes the part.
if count < lines or not leased_by(unit, me) then return { new, 0 } end
local h = redis.call('HMGET', record(unit), 'tier', 'attempt')
if h[1] ~= 'part' then
  redis.call('HSET', record(unit), 'tier', 'part', 'attempt', tonumber(h[2]) + 1)
end
redis.call('ZADD', P .. 'leases', now + lease_ms, unit)
return { new, 1 }
