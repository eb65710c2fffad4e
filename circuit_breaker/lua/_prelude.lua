-- Mirrors machine.py. KEYS[1] cb:{name}:state hash, KEYS[2] cb:{name}:probes zset token -> lease
-- end (ms). Both live for ARGV[2] ms after the last write: longer than any open time or hold.
-- ARGV[1]: now in ms, or -1 for the server's clock (tests pass a clock of their own).
local S, L = KEYS[1], KEYS[2]
local now, ttl = tonumber(ARGV[1]), ARGV[2]
if now < 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local h = redis.call('HMGET', S, 'state', 'generation', 'epoch', 'failures', 'successes', 'lost',
  'open_until', 'hold_until', 'hold_reason', 'saved')
local state, generation, epoch = h[1] or 'closed', tonumber(h[2] or 0), h[3] or ''
local failures, successes, lost = tonumber(h[4] or 0), tonumber(h[5] or 0), tonumber(h[6] or 0)
local open_until, hold_until = tonumber(h[7] or 0), tonumber(h[8] or 0)
local hold_reason, saved = h[9] or '', tonumber(h[10] or 0)

local function save()
  redis.call('HSET', S, 'state', state, 'generation', generation, 'epoch', epoch,
    'failures', failures, 'successes', successes, 'lost', lost,
    'open_until', open_until, 'hold_until', hold_until, 'hold_reason', hold_reason,
    'saved', now)
  redis.call('PEXPIRE', S, ttl)
  redis.call('PEXPIRE', L, ttl)
end

-- The clock was set back since then: what was to last so long goes on for as long as was left of it.
-- (The machine's clock in memory never is.)
if now < saved then
  local back = saved - now
  open_until, hold_until = open_until - back, hold_until - back
  for _, token in ipairs(redis.call('ZRANGE', L, 0, -1)) do
    redis.call('ZINCRBY', L, -back, token)
  end
  save()
end

local function enter(next_state)
  state, generation = next_state, generation + 1
  failures, successes, lost = 0, 0, 0
  redis.call('DEL', L)
end

local function trip(open_ms)
  enter('open')
  open_until = now + open_ms
end

-- What every script answers: its decision, then the view.
local function answer(decision, wait)
  local opened = state == 'open' and open_until or 0
  local held = hold_until > now
  return { decision, state, generation, epoch, failures, successes,
    math.max(hold_until, opened, now) - now, held and 1 or 0, held and hold_reason or '',
    wait or 0 }
end
