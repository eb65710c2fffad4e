-- Records a file whose content lies on the storage, and keeps what its upload has claimed: in one
-- step, so that at no moment it is there while its key would make another.
-- ARGV from 3: id, owner, claim_ms, expires_ms, bytes, the four limits of files_full, number of
-- idempotency keys, those keys, then the file's field, value, ...
-- Answers {'', 0}; or {'claim', 0} if its claim lapsed, and an upload that was sent again has taken
-- its key over; or {the limit that it would exceed, how much is there}.
local id, owner, claim_ms, expires, bytes = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local limits, number = list(8, 4), tonumber(ARGV[12])
local keys, fields = list(13, number), list(13 + number)
local own = {}
for _, key in ipairs(keys) do
  local known = redis.call('GET', claim_name(owner, key))
  if not known or known == claim_value(key, id) then
    own[#own + 1] = key
  elseif key:sub(1, 1) == '?' then
    return { 'claim', 0 }
  end
end
local limit = files_full(owner, bytes, limits)
if limit[1] ~= '' then return limit end
for _, key in ipairs(own) do
  redis.call('SET', claim_name(owner, key), claim_value(key, id), 'PX', claim_ms)
end
redis.call('HSET', P .. 'file:' .. id, 'id', id, 'owner', owner, 'expires_ms', expires,
  'bytes', bytes, unpack(fields))
redis.call('ZADD', P .. 'files:' .. owner, now, id)
redis.call('ZADD', P .. 'file_expiry', expires, id)
count_file(id, owner, bytes)
return limit
