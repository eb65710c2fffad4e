local function enter(next_state)
  state, generation = next_state, generation + 1
  failures, successes, lost, window = 0, 0, 0, ''
  redis.call('DEL', L)
end

local function trip()
  local again = state == 'half_open' or now - closed_at < open_for
  opened = again and math.min(opened + 1, MOST_OPENED) or 1
  local length = math.min(R.open_ms * R.open_multiplier ^ (opened - 1), R.open_cap_ms)
  enter('open')
  open_for = math.floor(length * (1 + R.open_jitter * (2 * draw - 1)))
  open_until = now + open_for
end

local function clear()
  enter('closed')
  open_until, hold_until, hold_reason = 0, 0, ''
  opened, open_for, closed_at, saturated_since = 0, 0, 0, 0
end
