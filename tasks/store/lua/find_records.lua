-- Looks for records of a list, newest first. ARGV from 3: the list, how the names of its records begin,
-- the place where the look begins, how many are looked at, how many are wanted, a text ('': any) that is
-- to be a part of the id or of a value of the metadata, then per test: fields, of which the first that
-- the record has is to be, the value.
-- Answers {how many were looked at, 1 if that was the end of the list, the last of them, ids that fit}.
-- finds owner:* batches:* job:* batch:* the list names them
local index, records, place = P .. ARGV[3], P .. ARGV[4], tonumber(ARGV[5])
local look, wanted, text = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]:lower()
local tests = rows(9, 2)

local function value_of(key, fields)
  for field in fields:gmatch('%S+') do
    local value = redis.call('HGET', key, field)
    if value and value ~= '' then return value end
  end
  return ''
end

local function passes(key)
  for _, test in ipairs(tests) do
    if value_of(key, test[1]) ~= test[2] then return false end
  end
  return true
end

local function says(id)
  if text == '' or id:find(text, 1, true) then return true end
  local metadata = cjson.decode(redis.call('HGET', records .. id, 'metadata') or '{}')
  for _, value in pairs(metadata) do
    if value:lower():find(text, 1, true) then return true end
  end
  return false
end

local ids, found, looked = redis.call('ZREVRANGE', index, place, place + look - 1), {}, 0
for _, id in ipairs(ids) do
  if #found == wanted then break end
  looked = looked + 1
  if passes(records .. id) and says(id) then found[#found + 1] = id end
end
local last = looked == #ids and place + looked >= redis.call('ZCARD', index)
return { looked, last and 1 or 0, ids[looked] or '', found }
