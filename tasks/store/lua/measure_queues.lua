-- Measures what is unfinished now. ARGV from 3: how many records of an index are looked at, then
-- the queues.
-- Answers {parked, workers, then per queue: waiting, running, ms since the oldest was dispatched}.
-- A unit of a batch counts as one. Where more run than are looked at, the shares are those of the
-- part that was; the oldest is looked for at both ends, as the sweeper puts off what has waited.
-- finds job:* the indexes name them
local most, queues = tonumber(ARGV[3]), list(4)
redis.call('ZREMRANGEBYSCORE', P .. 'workers', '-inf', now - 60000)
local answer = { redis.call('ZCARD', P .. 'parked'),
  redis.call('ZCOUNT', P .. 'workers', now, '+inf') }

local running, looked = {}, redis.call('ZRANGE', P .. 'leases', 0, most - 1)
for _, id in ipairs(looked) do
  local queue = redis.call('HGET', record(id), 'queue') or ''
  running[queue] = (running[queue] or 0) + 1
end
local scale = redis.call('ZCARD', P .. 'leases') / math.max(#looked, 1)

for _, queue in ipairs(queues) do
  local key, oldest = P .. 'dispatched:' .. queue, now
  local half = math.floor(most / 2)
  for _, range in ipairs({ { 0, half - 1 }, { -half, -1 } }) do
    for _, id in ipairs(redis.call('ZRANGE', key, range[1], range[2])) do
      oldest = math.min(oldest, tonumber(redis.call('HGET', record(id), 'dispatched_ms') or now))
    end
  end
  answer[#answer + 1] = redis.call('ZCARD', key)
  answer[#answer + 1] = math.floor((running[queue] or 0) * scale + 0.5)
  answer[#answer + 1] = now - oldest
end
return answer
