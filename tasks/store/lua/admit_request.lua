-- Lets an owner send one more request, or not. ARGV from 3: owner, requests a minute (0: any
-- number), requests at once (0: any number), token, lease_ms.
-- Answers {1 or 0, what is left of the minute, ms until the minute is over, which limit: 'rate',
-- 'concurrency' or ''}. What is refused for the concurrency does not count for the minute.
-- finds rate:* the server's minute names it
local owner, rate, most = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local token, lease_ms = ARGV[6], tonumber(ARGV[7])
local minute = math.floor(now / 60000)
local reset = (minute + 1) * 60000 - now
local key, running = P .. 'rate:' .. owner .. ':' .. minute, P .. 'running:' .. owner
if most > 0 and holders(running, lease_ms) >= most then
  local used = tonumber(redis.call('GET', key) or 0)
  return { 0, math.max(rate - used, 0), reset, 'concurrency' }
end
local left = 0
if rate > 0 then
  local used = redis.call('INCR', key)
  redis.call('PEXPIRE', key, 120000)
  if used > rate then return { 0, 0, reset, 'rate' } end
  left = rate - used
end
if most > 0 then hold(running, token, lease_ms) end
return { 1, left, reset, '' }
