-- Reads results of a slice, in the order of their lines. ARGV from 3: batch, slice, lines of the
-- slice, the line to begin at, how many bytes (of several lines: one comes whatever it has).
-- Answers {the line to go on at, {line, its result, ...}}: nested, as a slice may have more lines than
-- unpack() takes.
local id, slice, lines, line, room = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local part, found, bytes = results(id, slice), {}, 0
while line < lines do
  bytes = bytes + redis.call('HSTRLEN', part, line)
  if bytes > tonumber(room) and #found > 0 then break end
  local stored = redis.call('HGET', part, line)
  if stored then
    found[#found + 1] = line
    found[#found + 1] = stored
  end
  line = line + 1
end
return { line, found }
