-- Prolongs what a create has claimed, as long as it is its own; 0 frees it.
-- ARGV: prefix, owner, id, ttl_ms, then its once keys.
for i = 5, #ARGV do
  local name = once_name(ARGV[2], ARGV[i])
  if redis.call('GET', name) == once_value(ARGV[i], ARGV[3]) then
    redis.call('PEXPIRE', name, ARGV[4])
  end
end
