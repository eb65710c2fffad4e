-- Measures what is unfinished now. ARGV from 3: how many records of an index are looked at, then
-- the queues.
-- Answers {parked, workers, streams; unfinished jobs, of these running and parked; unanswered lines of open
-- batches, of these running and parked; then per queue: waiting, running, ms since the oldest was
-- dispatched}. Of a queue a unit of a batch counts as one. A line runs, or is parked, whose unit is.
-- Where an index is longer than what is looked at, the shares are those of the part that was (of
-- units a tenth of it, as each costs more); the oldest is looked for at both ends, as the sweeper
-- puts off what has waited.
-- finds job:* batch:* part:* the indexes name them
local most, queues = tonumber(ARGV[3]), list(4)
redis.call('ZREMRANGEBYSCORE', P .. 'workers', '-inf', now - 60000)

local function looked_at(index)
  local ids = redis.call('ZRANGE', index, 0, most - 1)
  return ids, redis.call('ZCARD', index) / math.max(#ids, 1)
end

local function scaled(number, scale) return math.floor(number * scale + 0.5) end

local function open_lines(batch_id, slice)
  local range = redis.call('LINDEX', batch(batch_id) .. ':slices', slice) or ''
  local lines = tonumber(range:match('^%d+:%d+:(%d+)') or '0')
  return lines - tonumber(redis.call('HGET', results(batch_id, slice), 'count') or '0')
end

-- Answers lone jobs, lines of units, and records by queue, of what an index names. Units of one
-- slice have no more lines together than the slice has open ones.
local function measured(index)
  local jobs, units, asked, lines, by_queue, slices = 0, 0, 0, 0, {}, {}
  local ids, scale = looked_at(index)
  for _, id in ipairs(ids) do
    local h = redis.call('HMGET', record(id), 'queue', 'batch', 'slice')
    local queue, batch_id, slice = h[1] or '', h[2], h[3]
    by_queue[queue] = (by_queue[queue] or 0) + 1
    if h[1] and not batch_id then jobs = jobs + 1 end
    if batch_id and slice ~= '-1' then
      units = units + 1
      if units <= most / 10 then
        local name, own = batch_id .. ':' .. slice, redis.call('HGET', record(id), 'lines')
        local open = slices[name] or open_lines(batch_id, slice)
        local of_unit = open
        if own ~= '' then of_unit = math.min(select(2, own:gsub(',', '')) + 1, open) end
        asked, lines, slices[name] = asked + 1, lines + of_unit, open - of_unit
      end
    end
  end
  for queue, number in pairs(by_queue) do by_queue[queue] = scaled(number, scale) end
  return scaled(jobs, scale), scaled(lines * units / math.max(asked, 1), scale), by_queue
end

local unanswered, batches, scale = 0, looked_at(P .. 'open_batches')
for _, id in ipairs(batches) do
  local b = redis.call('HMGET', batch(id), 'total', 'completed', 'failed')
  unanswered = unanswered + (b[1] or 0) - (b[2] or 0) - (b[3] or 0)
end
local jobs_running, lines_running, running = measured(P .. 'leases')
local jobs_parked, lines_parked = measured(P .. 'parked')
local answer = { redis.call('ZCARD', P .. 'parked'),
  redis.call('ZCOUNT', P .. 'workers', now, '+inf'), redis.call('SCARD', P .. 'streams'),
  open_jobs(), jobs_running, jobs_parked,
  scaled(unanswered, scale), lines_running, lines_parked }

for _, queue in ipairs(queues) do
  local key, oldest = P .. 'dispatched:' .. queue, now
  local half = math.floor(most / 2)
  for _, range in ipairs({ { 0, half - 1 }, { -half, -1 } }) do
    for _, id in ipairs(redis.call('ZRANGE', key, range[1], range[2])) do
      oldest = math.min(oldest, tonumber(redis.call('HGET', record(id), 'dispatched_ms') or now))
    end
  end
  answer[#answer + 1] = redis.call('ZCARD', key)
  answer[#answer + 1] = running[queue] or 0
  answer[#answer + 1] = now - oldest
end
return answer
