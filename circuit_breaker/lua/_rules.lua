-- ARGV[3]: the caller's draw, from 0 to 1. ARGV[4]: the rules, in the order of Rules in machine.py;
-- empty for the scripts that need none.
local draw = tonumber(ARGV[3])
local R, names = {}, { 'failure_threshold', 'success_threshold', 'permits', 'open_ms',
  'open_multiplier', 'open_cap_ms', 'open_jitter', 'lease_ms', 'saturation_hold_ms',
  'saturation_limit_ms', 'window_ms', 'minimum_calls', 'failure_rate', 'slow_rate', 'ramp_ms' }
local place = 0
for value in ARGV[4]:gmatch('[^,]+') do
  place = place + 1
  R[names[place]] = tonumber(value)
end
local LOST_PROBES, LEAST_SHARE, RAMP_WAIT_MS, FORCED_WAIT_MS, MOST_OPENED = 3, 0.1, 250, 5000, 64
