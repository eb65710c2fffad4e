-- Notes what tiers answered, and what kept them from it. ARGV from 3: ttl_ms, then per tier: name,
-- host, "1" if it answered, tries without an answer since then, what the last of them came to,
-- trouble ("": they show none), its reason, tries that show it.
-- Answers the record of each of them, as HGETALL does.
local ttl, reports = ARGV[3], rows(4, 8)
local answer = {}
for _, row in ipairs(reports) do
  local tier, host, answered, unanswered, last, trouble, reason, times = unpack(row)
  local key = P .. 'tier:' .. tier
  if answered == '1' then
    redis.call('DEL', key)
    redis.call('HSET', key, 'answered_ms', now)
  end
  if unanswered ~= '0' then
    redis.call('HSETNX', key, 'since_ms', now)
    redis.call('HINCRBY', key, 'unanswered', unanswered)
    redis.call('HSET', key, 'asked_ms', now, 'host', host)
    if last ~= '' then redis.call('HSET', key, 'last', last) end
  end
  if trouble ~= '' then
    if redis.call('HGET', key, 'trouble') ~= trouble then
      redis.call('HSET', key, 'trouble', trouble, 'first_ms', now, 'times', 0)
    end
    redis.call('HINCRBY', key, 'times', times)
    redis.call('HSET', key, 'reason', reason, 'last_ms', now)
  end
  if answered == '1' or unanswered ~= '0' then redis.call('PEXPIRE', key, ttl) end
  answer[#answer + 1] = redis.call('HGETALL', key)
end
return answer
