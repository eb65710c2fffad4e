-- Each file that is counted has an entry, which says what was counted of it. So it counts once and
-- is given back once, however often it is deleted; and what a process of an older release keeps and
-- deletes, which counts nothing, is found by a look at entries and records (count_files).
local function count_file(id, owner, bytes)
  if redis.call('HSETNX', P .. 'counted_files', id, bytes .. ' ' .. owner) == 1 then
    add(P .. 'stored_bytes', owner, tonumber(bytes))
  end
end

local function uncount_file(id)
  local counted = redis.call('HGET', P .. 'counted_files', id)
  if not counted then return end
  local bytes, owner = counted:match('^(%d+) (.*)$')
  redis.call('HDEL', P .. 'counted_files', id)
  add(P .. 'stored_bytes', owner, -tonumber(bytes))
end

-- Answers {the limit that keeps an owner from one more file, how much is there}, or {'', 0}.
-- limits: files of all and of one owner, bytes of all and of one owner; 0: any number.
local function files_full(owner, bytes, limits)
  local stored = P .. 'stored_bytes'
  for i, row in ipairs({
    { 'files', redis.call('HLEN', P .. 'counted_files'), 1 },
    { 'owner_files', redis.call('ZCARD', P .. 'files:' .. owner), 1 },
    { 'bytes', tally(stored, ''), tonumber(bytes) },
    { 'owner_bytes', tally(stored, owner), tonumber(bytes) },
  }) do
    local most = tonumber(limits[i])
    if most > 0 and row[2] + row[3] > most then return { row[1], row[2] } end
  end
  return { '', 0 }
end
