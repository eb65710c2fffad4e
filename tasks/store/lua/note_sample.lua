-- Notes what a look at the fleet found, in the history of this minute. ARGV from 3: how many requests
-- wait, then per breaker: its name, its state. The last number of a minute stays, and of each breaker
-- its worst state.
-- finds history:* the server's minute names it
local queued, states = ARGV[3], rows(4, 2)
local RANKS = { closed = 1, disabled = 2, half_open = 3, open = 4, forced_open = 5 }
local minute = P .. 'history:' .. math.floor(now / 60000)
redis.call('HSET', minute, 'queued', queued)
for _, row in ipairs(states) do
  local field, state = 'b:' .. row[1], row[2]
  local known = redis.call('HGET', minute, field)
  if not known or RANKS[state] > RANKS[known] then redis.call('HSET', minute, field, state) end
end
redis.call('EXPIRE', minute, 90000)
return 1
