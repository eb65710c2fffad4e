-- Takes a slot at a tier whose limit adapts. ARGV from 3: tier, lease_ms, token, lowest, highest,
-- how many a batch's call leaves to others (0: it is no batch's), which part of the rest its calls may
-- have. Answers {1 or 0: all are taken, the limit now}.
local tier, lease_ms, token = ARGV[3], tonumber(ARGV[4]), ARGV[5]
local lowest, highest, reserved = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local part = tonumber(ARGV[9])
local slots = P .. 'permits:' .. tier
local known = redis.call('HMGET', limit_key(tier), 'limit', 'pause_ms')
local limit = math.floor(limit_within(lowest, highest, known[1]))
local most = reserved > 0 and limit_for_batches(limit, reserved) or limit
most = math.max(math.floor(most * part), 1)
-- Paused for no longer than it can be, though the clock was set back.
local paused = tonumber(known[2] or 0) - now
if (paused > 0 and paused <= PAUSE_MS) or holders(slots, lease_ms) >= most then
  return { 0, limit }
end
hold(slots, token, lease_ms)
return { 1, limit }
