-- A tally is a hash of sums: each owner's, and under '' that of all. A sum of 0 has no field.
local function tally(key, owner) return tonumber(redis.call('HGET', key, owner) or '0') end

-- Adds to an owner's sum; what is taken away is never more than there is.
local function add(key, owner, number)
  local change = number < 0 and math.max(number, -tally(key, owner)) or number
  if change == 0 then return end
  for _, field in ipairs({ '', owner }) do
    if redis.call('HINCRBY', key, field, change) == 0 then redis.call('HDEL', key, field) end
  end
end
