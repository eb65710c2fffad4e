-- Ends a job. ARGV from 3: id, tier, attempt, status, tier_used, then what ends the log of its stream
-- (chunks before, chunks with it, entry: '' for none; ttl_ms), the bucket of how long the answering call
-- took ('': nobody was called), the channel of who waits ('': nobody does) and what he is told, then
-- field, value, ...
-- Answers 1 if this was the finish, 0 if it came too late: first finish wins; -1 if the log has lost
-- what it had: the job is not ended then.
-- finds latency:* first_word:* the server's minute names them
-- finds queued:* the record names its owner
-- finds history:* the server's minute names it
local id, tier, attempt, status, tier_used = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local before, with, entry, ttl = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], ARGV[11]
local took, channel, told, fields = ARGV[12], ARGV[13], ARGV[14], list(15)
local h = redis.call('HMGET', record(id), 'status', 'tier', 'attempt')
if h[1] ~= 'running' or h[2] ~= tier or h[3] ~= attempt then return 0 end
if entry ~= '' and not add_to_log(id, before, with, entry, ttl) then return -1 end
finish(id, status, tier_used ~= '' and tier_used or '-', fields, channel, told)
if took ~= '' then note_history('t:' .. tier_used .. ':' .. took, 1) end
return 1
