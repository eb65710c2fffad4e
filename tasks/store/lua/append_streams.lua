-- Adds to the logs of streams. ARGV from 3: ttl_ms, then per job: id, lease_owner, chunks before, chunks
-- with them, entry. Answers per job 1 if it is there now, 0 if the job is not the asker's any more, -1 if
-- the log has lost what it had. The same again (its answer was lost) changes nothing.
-- finds first_word:* the server's minute names it
local ttl, jobs, answers = ARGV[3], rows(4, 5), {}
for i, job in ipairs(jobs) do
  local id, me, before, with, entry = unpack(job)
  local answer = 0
  if leased_by(id, me) then
    answer = add_to_log(id, tonumber(before), tonumber(with), entry, ttl) and 1 or -1
  end
  answers[i] = answer
end
return answers
