-- ARGV from 5: new epoch, if there is none; action (open, disable, auto, reset), by, why.
local action = ARGV[6]
if epoch == '' then epoch = ARGV[5] end
if action == 'open' or (action == 'auto' and override == 'open') then
  enter('open')
  open_until = now
elseif action ~= 'auto' or override == 'disabled' then
  clear()
end
override = action == 'open' and 'open' or action == 'disable' and 'disabled' or ''
by, why, changed_at = ARGV[7], ARGV[8], now
save()
return answer(1)
