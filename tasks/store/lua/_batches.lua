local SLICE_BYTES = 1048576  -- as in records/batches: what a slice has of its input, at most

local function new_unit(id, queue, batch_id, slice, tier, grace, lines)
  redis.call('HSET', record(id), 'id', id, 'owner', '', 'created_ms', now, 'attempts', '[]',
    'batch', batch_id, 'slice', slice, 'lines', lines)
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
  leave_room(id)
  unlist(id, redis.call('HGET', record(id), 'queue') or 'batch')
  redis.call('DEL', record(id))
  redis.call('SREM', batch(batch_id) .. ':units', id)
end

-- Sends the next slices on their way; answers their units. All open batches share the window, of
-- which each has one at least: a slice that is sent stands behind few of the others'. The only slice
-- of a small batch stands behind none of them.
local function feed(batch_id, window, grace)
  local key, made = batch(batch_id), {}
  local h = redis.call('HMGET', key, 'next', 'slices', 'first_tier', 'done')
  local share = math.floor(window / math.max(redis.call('ZCARD', P .. 'open_batches'), 1))
  local last = math.min(tonumber(h[4]) + math.max(share, 1), tonumber(h[2])) - 1
  for slice = tonumber(h[1]), last do
    local id, queue = 'unit_' .. batch_id .. '_' .. slice, h[2] == '1' and 'batch.begun' or 'batch'
    new_unit(id, queue, batch_id, slice, h[3], grace, '')
    made[#made + 1] = { id, 0, h[3], queue }
    redis.call('HSET', key, 'next', slice + 1)
  end
  return made
end

-- The phases of a small batch do not wait for those of large ones.
local function new_phase(batch_id, phase, small, grace)
  local id, queue = 'unit_' .. batch_id .. '_' .. phase, small and 'phases.begun' or 'phases'
  new_unit(id, queue, batch_id, -1, phase, grace, '')
  return { id, 0, phase, queue }
end

-- Has the files of a batch made from what is there; answers the unit to publish.
local function join(batch_id, grace)
  redis.call('HSET', batch(batch_id), 'finalizing_ms', now)
  local small = redis.call('HGET', batch(batch_id), 'slices') == '1'
  return new_phase(batch_id, 'join', small, grace)
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

-- Keeps of a batch that has ended what its owner looks at: for its time.
local function keep_batch(batch_id, ttl)
  local key = batch(batch_id)
  redis.call('DEL', written(batch_id))
  for _, of in ipairs({ '', ':slices', ':parts', ':times' }) do redis.call('PEXPIRE', key .. of, ttl) end
end
