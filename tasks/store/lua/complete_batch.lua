-- Ends a batch whose files are there. ARGV from 3: unit, lease_owner, batch, lines that were joined
-- unanswered, file_ttl_ms, number of further parts, those parts ("slice:output:error"), then per
-- file: "output" or "error", id, bytes, filename.
-- Answers 1, or 0 if this came too late. The unit stays until what it leaves behind is cleared.
local unit, me, id, unanswered = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local ttl, number, key = tonumber(ARGV[7]), tonumber(ARGV[8]), batch(id)
local parts, files = list(9, number), rows(9 + number, 4)
if not leased_by(unit, me) then return 0 end
local b = redis.call('HMGET', key, 'status', 'ending', 'owner', 'slices', 'output_ttl_ms')
local status, ending, owner, slices = b[1], b[2], b[3], tonumber(b[4])
if status ~= 'finalizing' and status ~= 'cancelling' then return 1 end
local expires = now + tonumber(b[5] or ttl)
for _, part in ipairs(parts) do redis.call('RPUSH', key .. ':parts', part) end
for _, row in ipairs(files) do
  local kind, file, bytes, filename = unpack(row)
  redis.call('HSET', P .. 'file:' .. file, 'id', file, 'owner', owner, 'created_ms', now,
    'bytes', bytes, 'filename', filename, 'purpose', 'batch_output', 'expires_ms', expires)
  redis.call('ZADD', P .. 'files:' .. owner, now, file)
  redis.call('ZADD', P .. 'file_expiry', expires, file)
  count_file(file, owner, bytes)
  redis.call('HSET', key, kind .. '_file_id', file)
end
redis.call('HINCRBY', key, 'failed', unanswered)
redis.call('HSET', key, 'status', ending, ending .. '_ms', now)
for slice = 0, slices - 1 do redis.call('DEL', results(id, slice)) end
keep_batch(id, ttl)
return 1
