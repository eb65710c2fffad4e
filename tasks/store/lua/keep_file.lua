-- Records a file whose content lies on the storage, and keeps what its upload has claimed: in one
-- step, so that at no moment it is there while its key would make another.
-- ARGV from 3: id, owner, claim_ms, expires_ms, number of idempotency keys, those keys, then the
-- file's field, value, ... Answers 1; or 0 if its claim lapsed, and an upload that was sent again
-- has taken its key over.
local id, owner, claim_ms, expires, number = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local keys, fields = list(8, number), list(8 + number)
local own = {}
for _, key in ipairs(keys) do
  local known = redis.call('GET', claim_name(owner, key))
  if not known or known == claim_value(key, id) then
    own[#own + 1] = key
  elseif key:sub(1, 1) == '?' then
    return 0
  end
end
for _, key in ipairs(own) do
  redis.call('SET', claim_name(owner, key), claim_value(key, id), 'PX', claim_ms)
end
redis.call('HSET', P .. 'file:' .. id, 'id', id, 'owner', owner, 'expires_ms', expires,
  unpack(fields))
redis.call('ZADD', P .. 'files:' .. owner, now, id)
redis.call('ZADD', P .. 'file_expiry', expires, id)
return 1
