-- Takes what is past its TTL out of the lists of one owner, the one that has waited longest for it.
-- ARGV from 3: ms until that owner is looked at again, how many of a list are looked at, ms for which
-- it is noted where what went stood, then for each list: its name, the name of its records, their least age in ms when they may be gone.
-- Answers how many it took out, or -1 if no owner is due. An owner without a list is forgotten; of one
-- who has nothing unfinished no bytes are counted.
-- finds owner:* batches:* job:* batch:* gone:* queued:* the owner that is due names them
local wait, most, gone_ms, lists = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], rows(6, 3)
local owner = redis.call('ZRANGEBYSCORE', P .. 'owners', '-inf', now, 'LIMIT', 0, 1)[1]
if not owner then return -1 end
local gone, left = 0, 0
for _, list in ipairs(lists) do
  local key, records, oldest = P .. list[1] .. owner, P .. list[2], now - tonumber(list[3])
  local listed = redis.call('ZRANGEBYSCORE', key, '-inf', oldest, 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, #listed, 2 do
    local id, at = listed[i], listed[i + 1]
    if redis.call('EXISTS', records .. id) == 0 then
      redis.call('ZREM', key, id)
      redis.call('SET', P .. 'gone:' .. list[1] .. owner .. ':' .. id, at, 'PX', gone_ms)
      gone = gone + 1
    end
  end
  left = left + redis.call('ZCARD', key)
end
release_bytes(owner, 0)
if left == 0 then
  redis.call('ZREM', P .. 'owners', owner)
else
  -- More may be there where so many were gone.
  redis.call('ZADD', P .. 'owners', now + (gone < most / 2 and wait or 0), owner)
end
return gone
