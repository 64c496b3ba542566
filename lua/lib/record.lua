-- Counters by day and the stream of events: written by the script that does the thing.
local function count(field)
  local day = key('stats:' .. math.floor(now / 86400000))
  if redis.call('HINCRBY', day, field, 1) == 1 then
    redis.call('EXPIRE', day, 400 * 86400)
  end
end

local function event(kind, user, sid, cause)
  redis.call('XADD', key('events'), 'MAXLEN', '~', 10000, '*', 't', kind, 'u', user, 's', sid, 'c', cause)
end
