local function new_unit(id, queue, batch_id, slice, tier, first_tier, grace, lines)
  redis.call('HSET', record(id), 'id', id, 'owner', '', 'created_ms', now, 'attempts', '[]',
    'first_tier', first_tier, 'batch', batch_id, 'slice', slice, 'lines', lines)
  redis.call('SADD', batch(batch_id) .. ':units', id)
  start(id, queue, tier, 0, grace)
end

-- Whether a slice still takes what is to be known of its lines: after the end of its batch nobody
-- would clear it away.
local function takes(batch_id, slice)
  return redis.call('HGET', batch(batch_id), 'status') == 'in_progress'
    and redis.call('GETBIT', written(batch_id), slice) == 0
end

local function drop_unit(id, batch_id)
  unlist(id, redis.call('HGET', record(id), 'queue') or 'batch')
  redis.call('DEL', record(id))
  redis.call('SREM', batch(batch_id) .. ':units', id)
end

-- Sends the next slices on their way, as far as the window allows; answers their units.
local function feed(batch_id, number, grace)
  local h = redis.call('HMGET', batch(batch_id), 'next', 'slices', 'first_tier')
  local first, made = tonumber(h[1]), {}
  local last = math.min(first + number, tonumber(h[2])) - 1
  for slice = first, last do
    local id = 'unit_' .. batch_id .. '_' .. slice
    new_unit(id, 'batch', batch_id, slice, h[3], h[3], grace, '')
    made[#made + 1] = { id, 0, h[3], 'batch' }
  end
  redis.call('HSET', batch(batch_id), 'next', last + 1)
  return made
end

-- Has the files of a batch made from what is there; answers the unit to publish.
local function join(batch_id, grace)
  redis.call('HSET', batch(batch_id), 'finalizing_ms', now)
  local id = 'unit_' .. batch_id .. '_join'
  new_unit(id, 'phases', batch_id, -1, 'join', 'join', grace, '')
  return { id, 0, 'join', 'phases' }
end

-- Ends a batch's work: what runs is dropped, what is there is joined. Answers the unit to publish,
-- or false if it has ended, or is ending, already.
local function end_batch(batch_id, ending, grace)
  local key = batch(batch_id)
  local status = redis.call('HGET', key, 'status')
  if status ~= 'validating' and status ~= 'in_progress' then return false end
  close_batch(batch_id)
  local shown = 'finalizing'
  if ending == 'cancelled' then
    shown = 'cancelling'
    redis.call('HSET', key, 'cancelling_ms', now)
  end
  redis.call('HSET', key, 'status', shown, 'ending', ending)
  -- Nobody knows its lines yet: the validation goes on, and joins what it finds, unanswered.
  if status == 'validating' then return false end
  for _, id in ipairs(redis.call('SMEMBERS', key .. ':units')) do drop_unit(id, batch_id) end
  redis.call('PUBLISH', P .. 'cancelled', batch_id)
  return join(batch_id, grace)
end
