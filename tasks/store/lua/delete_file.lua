-- Deletes what says that a file is there, and counts it no more. ARGV from 3: id, owner, ms for which
-- it is noted where it stood in the list: it may be somebody's last id seen; the final statuses of a
-- batch. Answers '', or the id of a batch which reads it and has not ended: then it stays.
-- Its content goes next; whoever finds it expired deletes that, if the asker does not get to.
-- finds batch:* the file's list says which batches read it
local id, owner, gone_ms, statuses = ARGV[3], ARGV[4], ARGV[5], list(6)
local files, readers, final = 'files:' .. owner, P .. 'file:' .. id .. ':batches', {}
for _, status in ipairs(statuses) do final[status] = true end
for _, reader in ipairs(redis.call('SMEMBERS', readers)) do
  local status = redis.call('HGET', batch(reader), 'status')
  if status and not final[status] then return reader end
end
local at = redis.call('ZSCORE', P .. files, id)
if at then redis.call('SET', P .. 'gone:' .. files .. ':' .. id, at, 'PX', gone_ms) end
redis.call('DEL', P .. 'file:' .. id, readers)
redis.call('ZREM', P .. files, id)
redis.call('ZADD', P .. 'file_expiry', 0, id)
uncount_file(id)
return ''
