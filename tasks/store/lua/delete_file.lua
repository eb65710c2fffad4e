-- Deletes what says that a file is there, and counts it no more. ARGV from 3: id, owner, ms for which
-- it is noted where it stood in the list: it may be somebody's last id seen.
-- Its content goes next; whoever finds it expired deletes that, if the asker does not get to.
local id, owner, gone_ms = ARGV[3], ARGV[4], ARGV[5]
local files = 'files:' .. owner
local at = redis.call('ZSCORE', P .. files, id)
if at then redis.call('SET', P .. 'gone:' .. files .. ':' .. id, at, 'PX', gone_ms) end
redis.call('DEL', P .. 'file:' .. id, P .. 'file:' .. id .. ':batches')
redis.call('ZREM', P .. files, id)
redis.call('ZADD', P .. 'file_expiry', 0, id)
uncount_file(id)
