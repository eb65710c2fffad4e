-- The window is a text: the length of a bucket in ms, then for each bucket ;number,calls,failures,
-- slow. At most ten buckets count.
local BUCKETS = 10

-- Returns the buckets that still count, each with its four numbers, and the length of a bucket.
local function fresh()
  local found, bucket_ms = {}, tonumber(window:match('^%d+') or 0)
  local oldest = bucket_ms > 0 and math.floor(now / bucket_ms) - BUCKETS or 0
  for number, calls, failed, slow in window:gmatch(';(%d+),(%d+),(%d+),(%d+)') do
    if tonumber(number) > oldest then
      found[#found + 1] = { tonumber(number), tonumber(calls), tonumber(failed), tonumber(slow) }
    end
  end
  return found, bucket_ms
end

local function sums()
  local calls, failed, slow = 0, 0, 0
  for _, bucket in ipairs(fresh()) do
    calls, failed, slow = calls + bucket[2], failed + bucket[3], slow + bucket[4]
  end
  return calls, failed, slow
end

local function count_call(calls, failed, slow)
  local found, length = fresh()
  local bucket_ms = math.floor(R.window_ms / BUCKETS)
  local number = math.floor(now / bucket_ms)
  if length ~= bucket_ms then found = {} end
  local last = found[#found]
  if not last or last[1] ~= number then
    last = { number, 0, 0, 0 }
    found[#found + 1] = last
  end
  last[2], last[3], last[4] = last[2] + calls, last[3] + failed, last[4] + slow
  local parts = { bucket_ms }
  for i, bucket in ipairs(found) do parts[i + 1] = table.concat(bucket, ',') end
  window = table.concat(parts, ';')
end
