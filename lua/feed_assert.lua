-- feed_assert: states again up to 64 revocations that a failover may have lost. What the bucket
-- still knows is left alone, so any number of gateways may assert the same.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2.. statements
-- Reply  {asserted, how many were lost}
-- Works when memory is full.
local index, lost = key('revoked:index'), 0

local function end_those_of(user, before, kept)
  for _, entry in ipairs(redis.call('ZRANGE', key('user:' .. user), 0, -1)) do
    local sid = sid_of(entry)
    if sid ~= kept and created_of(entry) <= before then
      end_session(sid, user, created_of(entry), redis.call('HGET', key('session:' .. sid), 'h'), 'revoked')
    end
  end
end

for i = 2, #ARGV do
  local statement = ARGV[i]
  if not redis.call('ZSCORE', index, statement) then
    local kind, rest = string.match(statement, '^(%a):(.*)$')
    if kind == 's' then
      local user, created, agent = unpack(redis.call('HMGET', key('session:' .. rest), 'u', 'c', 'h'))
      if user then
        end_session(rest, user, tonumber(created), agent, 'revoked')
      end
    elseif kind == 'c' then
      -- The credentials that replaced those are lost, and the seed is the old one again.
      local before, sid = string.match(rest, '^(%d+):(.*)$')
      local user, created, agent, login =
        unpack(redis.call('HMGET', key('session:' .. sid), 'u', 'c', 'h', 't'))
      if user and tonumber(login or created) <= tonumber(before) then
        end_session(sid, user, tonumber(created), agent, 'revoked')
        publish('s:' .. sid)
      end
    elseif kind == 'u' then
      local before, kept, user = string.match(rest, '^(%d+):([^:]+):(.*)$')
      end_those_of(user, tonumber(before), kept)
      cut = math.max(cut, tonumber(before))
    else
      all = math.max(all, tonumber(rest))
      cut = math.max(cut, all)
    end
    publish(statement)
    lost = lost + 1
  end
end
if lost > 0 then
  redis.call('HSET', feed, 'all', all, 'cut', cut)
end
return { 'asserted', lost }
