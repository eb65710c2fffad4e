-- Reads the log of a stream. ARGV from 3: job, how many of its chunks are known, how many bytes (of
-- several entries: one comes whatever it has).
-- Answers false if there is no log, else its first entry, and then some that have further chunks.
local id, known, room = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local key = P .. 'stream:' .. id
local first = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
if not first then return false end
local found, bytes = { first[2][2] }, 0
while true do
  local page = redis.call('XRANGE', key, (known + 1) .. '-0', '+', 'COUNT', 8)
  for _, entry in ipairs(page) do
    bytes = bytes + #entry[2][2]
    if bytes > room and #found > 1 then return found end
    found[#found + 1] = entry[2][2]
    known = tonumber(entry[1]:match('^%d+'))
  end
  if #page < 8 then return found end
end
