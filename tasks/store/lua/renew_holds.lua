-- Renews what tokens hold of semaphores. ARGV from 3: lease_ms, 1 if a hold that lapsed is taken
-- again (its holder runs on, even if the store was away), then tokens. KEYS: the semaphore of each.
local lease_ms, again, tokens = tonumber(ARGV[3]), ARGV[4] == '1', list(5)
for i, token in ipairs(tokens) do
  holders(KEYS[i], lease_ms)
  if again or redis.call('ZSCORE', KEYS[i], token) then hold(KEYS[i], token, lease_ms) end
end
