-- Counters by day and the stream of events: written by the script that does the thing.
local day = key('stats:' .. math.floor(now / 86400000))
local STATS_KEPT = 400 * 86400
local EVENTS_KEPT = 10000

local function count(field)
  if redis.call('HINCRBY', day, field, 1) == 1 then
    redis.call('EXPIRE', day, STATS_KEPT)
  end
end

local function event(kind, user, sid, cause)
  redis.call('XADD', key('events'), 'MAXLEN', '~', EVENTS_KEPT, '*',
    't', kind, 'u', user, 's', sid, 'c', cause)
end
