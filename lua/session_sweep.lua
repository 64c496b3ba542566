-- session_sweep: clears away up to a batch of what has ended, and counts it, once.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 batch
-- Reply  {swept, sessions ended, 1 when there is more, live sessions left}
local batch = tonumber(ARGV[2])
local ended, more = 0, 0

local function clear(set, sids, cause)
  for _, sid in ipairs(sids) do
    local record = redis.call('HMGET', key('session:' .. sid), 'u', 'c', 'h')
    if record[1] then
      end_session(sid, record[1], tonumber(record[2]), record[3], cause)
      ended = ended + 1
    end
    redis.call('ZREM', set, sid)
  end
  if #sids == batch then
    more = 1
  end
end

local expiry, dying, index = key('expiry'), key('dying'), key('revoked:index')
clear(expiry, redis.call('ZRANGEBYSCORE', expiry, '-inf', now, 'LIMIT', 0, batch), 'expired')
clear(dying, redis.call('ZRANGE', dying, 0, batch - 1), 'everything')

-- No token is still valid that a revocation older than the retention could speak of.
local old = redis.call('ZRANGEBYSCORE', index, '-inf', now - retention, 'LIMIT', 0, batch)
if #old > 0 then
  redis.call('ZREM', index, unpack(old))
  redis.call('XTRIM', key('revoked'), 'MINID', string.format('%.0f', now - retention))
end
if #old == batch then
  more = 1
end
return { 'swept', ended, more, redis.call('ZCARD', expiry) }
