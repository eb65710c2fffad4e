-- ARGV[3]: new epoch, if there is none.
if epoch == '' then epoch = ARGV[3] end
enter('closed')
open_until, hold_until, hold_reason = 0, 0, ''
save()
return answer(1)
