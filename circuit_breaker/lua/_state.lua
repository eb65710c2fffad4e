-- Mirrors machine.py. KEYS[1] cb:{name}:state hash, KEYS[2] cb:{name}:probes zset token -> lease
-- end (ms). Both live for ARGV[2] ms after the last write: longer than any open time or hold; an
-- operator's override is kept for as long as it is one.
-- ARGV[1]: now in ms, or -1 for the server's clock (tests pass a clock of their own).
local S, L = KEYS[1], KEYS[2]
local now, ttl = tonumber(ARGV[1]), ARGV[2]
if now < 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local h = redis.call('HMGET', S, 'state', 'generation', 'epoch', 'failures', 'successes', 'lost',
  'open_until', 'hold_until', 'hold_reason', 'saved', 'version', 'opened', 'open_for', 'closed_at',
  'saturated_since', 'window', 'override', 'by', 'why', 'changed_at')
local state, generation, epoch = h[1] or 'closed', tonumber(h[2] or 0), h[3] or ''
local failures, successes, lost = tonumber(h[4] or 0), tonumber(h[5] or 0), tonumber(h[6] or 0)
local open_until, hold_until = tonumber(h[7] or 0), tonumber(h[8] or 0)
local hold_reason, saved, version = h[9] or '', tonumber(h[10] or 0), tonumber(h[11] or 0)
local opened, open_for = tonumber(h[12] or 0), tonumber(h[13] or 0)
local closed_at, saturated_since = tonumber(h[14] or 0), tonumber(h[15] or 0)
local window = h[16] or ''
local override, by, why, changed_at = h[17] or '', h[18] or '', h[19] or '', tonumber(h[20] or 0)
local told_generation, told_hold, told_change = generation, hold_until, changed_at
