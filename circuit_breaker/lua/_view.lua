local CHANNEL = 'cb:changes'
local HOLD_STEP = 100 -- a hold that grows by less (ms) is no news
local KEPT_OVERRIDE = 315360000000 -- ten years, in ms

-- What can be told of it, as _view() in stores.py reads it. -1: none.
local function view()
  local until_open = state == 'open' and open_until or 0
  local held = hold_until > now and override == ''
  local wait = math.max(hold_until, until_open, now) - now
  if override == 'open' then wait = FORCED_WAIT_MS end
  local probes, lease = 0, 0
  if state == 'half_open' then
    probes = redis.call('ZCOUNT', L, '(' .. now, '+inf')
    local first = redis.call('ZRANGEBYSCORE', L, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if first[2] then lease = tonumber(first[2]) - now end
  end
  local calls, failed, slow = sums()
  return { state, generation, epoch, version, failures, successes, wait,
    held and 1 or 0, held and hold_reason or '', opened,
    closed_at > 0 and now - closed_at or -1, calls, failed, slow, probes, lease,
    override, by, why, changed_at > 0 and now - changed_at or -1 }
end

-- Tells every process that listens, once a state, a hold or an override is another than before.
local function publish()
  local same = generation == told_generation and changed_at == told_change
  if same and hold_until < told_hold + HOLD_STEP then return end
  local name = S:sub(5, -8)
  -- Who may not publish still has a breaker: its processes look once a second.
  redis.pcall('PUBLISH', CHANNEL, cjson.encode({ name, view() }))
end

local function save()
  version = version + 1
  redis.call('HSET', S, 'state', state, 'generation', generation, 'epoch', epoch,
    'failures', failures, 'successes', successes, 'lost', lost,
    'open_until', open_until, 'hold_until', hold_until, 'hold_reason', hold_reason,
    'saved', now, 'version', version, 'opened', opened, 'open_for', open_for,
    'closed_at', closed_at, 'saturated_since', saturated_since, 'window', window,
    'override', override, 'by', by, 'why', why, 'changed_at', changed_at)
  -- An earlier report may have held it for longer than this one asks to be remembered.
  local kept = math.max(ttl, 2 * (math.max(hold_until, open_until) - now))
  redis.call('PEXPIRE', S, override == '' and kept or KEPT_OVERRIDE)
  redis.call('PEXPIRE', L, ttl)
  publish()
end

-- What every script answers: its decision, how long to wait (ms), then the view.
local function answer(decision, wait)
  return { decision, wait or 0, unpack(view()) }
end

-- The clock was set back since then: what was to last so long goes on for as long as was left of it.
-- (The machine's clock in memory never is.)
if now < saved then
  local back = saved - now
  local function earlier(at) return at > 0 and math.max(at - back, 1) or 0 end
  open_until, hold_until, closed_at = earlier(open_until), earlier(hold_until), earlier(closed_at)
  saturated_since, changed_at = earlier(saturated_since), earlier(changed_at)
  window = ''
  for _, token in ipairs(redis.call('ZRANGE', L, 0, -1)) do
    redis.call('ZINCRBY', L, -back, token)
  end
  told_hold, told_change = hold_until, changed_at
  save()
end
