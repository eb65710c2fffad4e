-- The files of a batch are there. ARGV: prefix, unit, lease_owner, batch, lines that were
-- joined unanswered, file_ttl_ms, number of further parts, those parts ("slice:output:error"),
-- then per file: "output" or "error", id, bytes, filename.
-- Answers 1, or 0 if this came too late. The unit stays until what it leaves behind is cleared.
local id, ttl = ARGV[4], tonumber(ARGV[6])
local h = redis.call('HMGET', record(ARGV[2]), 'status', 'lease_owner')
if h[1] ~= 'running' or h[2] ~= ARGV[3] then return 0 end
local key = batch(id)
local b = redis.call('HMGET', key, 'status', 'ending', 'owner', 'slices', 'output_ttl_ms')
if b[1] ~= 'finalizing' and b[1] ~= 'cancelling' then return 1 end
local parts, expires = tonumber(ARGV[7]), now + tonumber(b[5] or ttl)
for i = 8, 7 + parts do redis.call('RPUSH', key .. ':parts', ARGV[i]) end
for i = 8 + parts, #ARGV, 4 do
  local file = ARGV[i + 1]
  redis.call('HSET', P .. 'file:' .. file, 'id', file, 'owner', b[3], 'created_ms', now,
    'bytes', ARGV[i + 2], 'filename', ARGV[i + 3], 'purpose', 'batch_output',
    'expires_ms', expires)
  redis.call('ZADD', P .. 'files:' .. b[3], now, file)
  redis.call('ZADD', P .. 'file_expiry', expires, file)
  redis.call('HSET', key, ARGV[i] .. '_file_id', file)
end
redis.call('HINCRBY', key, 'failed', ARGV[5])
redis.call('HSET', key, 'status', b[2], b[2] .. '_ms', now)
for slice = 0, tonumber(b[4]) - 1 do redis.call('DEL', P .. 'part:' .. id .. ':' .. slice) end
redis.call('DEL', key .. ':slices')
redis.call('PEXPIRE', key, ttl)
redis.call('PEXPIRE', key .. ':parts', ttl)
return 1
