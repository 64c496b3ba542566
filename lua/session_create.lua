-- session_create: starts a session within the user's limit, which no race can exceed.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 sid, 3 user, 4 limit, 5 policy (evict_oldest | evict_idle | reject),
--        6 idle ms, 7 absolute ms, 8 replay window ms, 9 agent id, 10 agent text, 11 country,
--        12 device class, 13.. further fields of the record and their values
-- Reply  {created, sid, user, issued, expiry, absolute, {evicted sids}}
--        {replayed, sid, user, issued, expiry, record}: the same request, sent again
--        {conflict, sid, user}: the id was used before, too long ago or its tokens are in use
--        {limit, sid, user, {sid, expiry, agent, record}..}: `reject`, and nothing was done
local sid, user, limit, policy = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]

if redis.call('EXISTS', key('session:' .. sid), key('ended:' .. sid)) > 0 then
  local record, flat = read(sid)
  local expiry = record and record.u == user and record.g == '1'
    and tonumber(record.c) >= now - tonumber(ARGV[8]) and expiry_of(sid, record)
  if expiry then
    return { 'replayed', sid, user, issued, expiry, flat }
  end
  return { 'conflict', sid, user }
end

local live = {}
local entries = redis.call('ZRANGE', key('user:' .. user), 0, -1, 'WITHSCORES')
for i = 1, #entries, 2 do
  local created = created_of(entries[i])
  local cause = created <= all and 'everything' or tonumber(entries[i + 1]) <= now and 'expired'
  if cause then
    local dead = sid_of(entries[i])
    end_session(dead, user, created, redis.call('HGET', key('session:' .. dead), 'h'), cause)
  else
    live[#live + 1] = entries[i]
  end
end

local evicted = {}
if #live >= limit then
  if policy == 'reject' then
    return { 'limit', sid, user, unpack(describe(live)) }
  end
  if policy == 'evict_idle' then
    local active = {}
    for _, entry in ipairs(live) do
      active[entry] = tonumber(redis.call('HGET', key('session:' .. sid_of(entry)), 'a')) or 0
    end
    table.sort(live, function(one, other)
      if active[one] == active[other] then
        return one < other
      end
      return active[one] < active[other]
    end)
  else
    table.sort(live)
  end
  for i = 1, #live - limit + 1 do
    local victim = sid_of(live[i])
    local agent = redis.call('HGET', key('session:' .. victim), 'h')
    end_session(victim, user, created_of(live[i]), agent, 'evicted')
    publish('s:' .. victim)
    evicted[#evicted + 1] = victim
  end
end

local absolute = issued + tonumber(ARGV[7])
local expiry = math.min(issued + tonumber(ARGV[6]), absolute)
local fields = { 'u', user, 'c', issued, 'a', issued, 't', issued, 'x', absolute, 'i', ARGV[6], 'g', 1, 'v', 0,
  'r', issued, 'h', ARGV[9], 'y', ARGV[11], 'd', ARGV[12] }
for i = 13, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
redis.call('HSET', key('session:' .. sid), unpack(fields))
set_expiry(user, issued, sid, expiry)
retain_agent(ARGV[9], ARGV[10])
count('created')
count('country:' .. ARGV[11])
count('device:' .. ARGV[12])
count('hour:' .. math.floor(now / 3600000) % 24)
count('sessions:' .. (#live - #evicted + 1))
event('session_created', user, sid, '')
return { 'created', sid, user, issued, expiry, absolute, evicted }
