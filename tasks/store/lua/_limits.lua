-- The limit of calls at once to a tier lies between two bounds, and follows what its server bears:
-- up by one with each call that ends well until it was lowered once, then by a share of one a round
-- of calls, which grows the longer nothing was too much; down by a tenth when the server is busy, or
-- slow, once in the time of a call (AIMD with the growth of TCP's CUBIC: few calls are turned away
-- where it has settled, and it is soon there when the server bears more).
local LIMIT_TTL_MS, RESERVED_SHARE = 86400000, 10
local LEAST_MS, PAUSE_MS = 100, 1000
local LEAST_STEP, MOST_STEP, ROUNDS_TO_ONE = 0.2, 2, 20 -- a round; rounds until it rises by one

local function limit_key(tier) return P .. 'limit:' .. tier end

local function limit_within(lowest, highest, known)
  return math.max(lowest, math.min(highest, tonumber(known or lowest)))
end

-- By how much one call that ended well raises it. since: ms since it was lowered; nil: never was.
local function step(limit, since, took)
  if not since then return 1 end
  local rounds = since / math.max(took, 1)
  return math.max(LEAST_STEP, math.min(rounds / ROUNDS_TO_ONE, MOST_STEP)) / limit
end

-- What calls of batches may have of it: some is left for lone ones.
local function limit_for_batches(limit, reserved)
  return math.max(limit - math.max(math.floor(limit / RESERVED_SHARE), reserved), 1)
end
