-- Counts files that are there, and those no more that are gone: a process of an older release, which
-- counts nothing, may have kept or deleted them. ARGV from 3: ids.
local ids = list(3)
for _, id in ipairs(ids) do
  local h = redis.call('HMGET', P .. 'file:' .. id, 'owner', 'bytes')
  if h[1] then count_file(id, h[1], h[2]) else uncount_file(id) end
end
