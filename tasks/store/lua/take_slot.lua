-- Takes a slot at a tier for one call. ARGV from 3: tier, limit (of the whole fleet), lease_ms,
-- token. Answers 1, or 0 if all are taken.
local tier, limit, lease_ms, token = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local slots = P .. 'permits:' .. tier
if holders(slots, lease_ms) >= limit then return 0 end
hold(slots, token, lease_ms)
return 1
