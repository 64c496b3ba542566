-- Sessions: reading them, whether one is live, and the only way in which one ends.

-- A member of the user's set: the time of creation sorts, and spares a read of every record.
local function member(created, sid)
  return string.format('%011x', created) .. sid
end

local function created_of(entry)
  return tonumber(string.sub(entry, 1, 11), 16)
end

local function sid_of(entry)
  return string.sub(entry, 12)
end

-- The record as a table and as Redis returned it, or nil.
local function read(sid)
  local flat = redis.call('HGETALL', key('session:' .. sid))
  if #flat == 0 then
    return nil
  end
  local record = {}
  for i = 1, #flat, 2 do
    record[flat[i]] = flat[i + 1]
  end
  return record, flat
end

-- The time at which a session expires, or nil and why it is not live.
local function expiry_of(sid, user, created)
  local score = tonumber(redis.call('ZSCORE', key('user:' .. user), member(created, sid)))
  if not score then
    return nil, 'orphaned'
  elseif created <= all then
    return nil, 'everything'
  elseif score <= now then
    return nil, 'expired'
  end
  return score
end

local function set_expiry(user, created, sid, at)
  redis.call('ZADD', key('user:' .. user), at, member(created, sid))
  redis.call('ZADD', key('expiry'), at, sid)
end

-- The text of a user agent stands once in the bucket, for as long as a session refers to it.
local function retain_agent(id, text)
  if id ~= '' and redis.call('HINCRBY', key('agents:refs'), id, 1) == 1 then
    redis.call('HSET', key('agents'), id, text)
  end
end

local function release_agent(id)
  if id and id ~= '' and redis.call('HINCRBY', key('agents:refs'), id, -1) <= 0 then
    redis.call('HDEL', key('agents:refs'), id)
    redis.call('HDEL', key('agents'), id)
  end
end

local function lasted(created)
  local seconds = (now - created) / 1000
  return seconds <= 60 and '1m' or seconds <= 300 and '5m' or seconds <= 900 and '15m'
    or seconds <= 3600 and '1h' or seconds <= 21600 and '6h' or seconds <= 86400 and '1d'
    or seconds <= 604800 and '7d' or 'longer'
end

-- Removes every trace of a session and counts it. Who calls it publishes the revocation, except
-- for an expired session: its tokens expired with it.
local function end_session(sid, user, created, agent, cause)
  redis.call('DEL', key('session:' .. sid))
  redis.call('ZREM', key('user:' .. user), member(created, sid))
  redis.call('ZREM', key('expiry'), sid)
  release_agent(agent)
  if cause ~= 'expired' then
    redis.call('SET', key('ended:' .. sid), cause .. ' ' .. user, 'PX', retention)
  end
  count('ended:' .. cause .. ':' .. lasted(created))
  event('session_ended', user, sid, cause)
end
