-- Keeps the places of requests that still run. ARGV: prefix, lease_ms, then per request: owner,
-- token. A place that lapsed, while the store was away, is taken again: its request runs on.
local lease = tonumber(ARGV[2])
for i = 3, #ARGV, 2 do
  local running = P .. 'running:' .. ARGV[i]
  redis.call('ZADD', running, now + lease, ARGV[i + 1])
  redis.call('PEXPIRE', running, lease)
end
