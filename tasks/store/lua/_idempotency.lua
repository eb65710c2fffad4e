-- An idempotency key of a create: "?" if it asks whether it was made before, "!" if it is only
-- noted, for one that asks later, or "<" if it asks and is not noted: what it finds it takes away,
-- so that nobody else does; 32 characters of digest of what was sent; its name.
local function claim_name(owner, key) return P .. 'once:' .. owner .. ':' .. key:sub(34) end
local function claim_value(key, id) return key:sub(2, 33) .. id end

-- Answers what an earlier create with one of these keys made, if it is there() still, or false. The
-- error REUSED: it was made with the same key, from something else.
local function made_before(owner, keys, there)
  for _, key in ipairs(keys) do
    local known = key:sub(1, 1) ~= '!' and redis.call('GET', claim_name(owner, key))
    if known and there(known:sub(33)) then
      if known:sub(1, 32) ~= key:sub(2, 33) then error({ err = 'REUSED key' }) end
      if key:sub(1, 1) == '<' then redis.call('DEL', claim_name(owner, key)) end
      return known:sub(33)
    end
  end
  return false
end

local function claim(owner, id, keys, ttl)
  for _, key in ipairs(keys) do
    if key:sub(1, 1) ~= '<' then
      redis.call('SET', claim_name(owner, key), claim_value(key, id), 'PX', ttl)
    end
  end
end
