-- session_create: starts a session within the user's limit, which no race can exceed.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 sid, 3 user, 4 limit, 5 policy (evict_oldest | evict_idle | reject |
--        resolve:<ticket>:<ms it is kept for>:<sid>,<sid>..),
--        6 idle ms, 7 absolute ms, 8 replay window ms (0: the id is new), 9 agent id, 10 agent text, 11 country,
--        12 device class, 13.. further fields of the record and their values
-- Reply  {created, sid, user, issued, expiry, absolute, {evicted sids}}
--        {replayed, sid, user, issued, expiry, record}: the same request, sent again
--        {conflict, sid, user}: the id was used before, too long ago or its tokens are in use
--        {limit, sid, user, {sid, expiry, agent, record}..}: `reject`, or what was chosen is not enough,
--        and nothing was done
--        {spent, sid, user}: the ticket was used before
local sid, user, limit, policy = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local window, mine = tonumber(ARGV[8]), key('user:' .. ARGV[3])

if window > 0 and redis.call('EXISTS', key('session:' .. sid), key('ended:' .. sid)) > 0 then
  local record, flat = read(sid)
  local expiry = record and record.u == user and record.g == '1'
    and tonumber(record.c) >= now - window and expiry_of(sid, record.u, tonumber(record.c))
  if expiry then
    return { 'replayed', sid, user, issued, expiry, flat }
  end
  return { 'conflict', sid, user }
end

local function finish(entry, cause)
  local victim = sid_of(entry)
  local agent = redis.call('HGET', key('session:' .. victim), 'h')
  end_session(victim, user, created_of(entry), agent, cause)
  return victim
end

local evicted = {}

-- A ticket admits once, in place of the sessions that its holder chose.
local ticket, kept, chosen = string.match(policy, '^resolve:([^:]+):(%d+):(.*)$')
if ticket then
  if redis.call('EXISTS', key('ticket:' .. ticket)) == 1 then
    return { 'spent', sid, user }
  end
  local entries, going, left = redis.call('ZRANGE', mine, 0, -1), {}, 0
  for _, entry in ipairs(entries) do
    if string.find(chosen, sid_of(entry), 1, true) then
      going[#going + 1] = entry
    elseif expiry_of(sid_of(entry), user, created_of(entry)) then
      left = left + 1
    end
  end
  if left >= limit then
    return { 'limit', sid, user, unpack(describe(entries)) }
  end
  redis.call('SET', key('ticket:' .. ticket), '', 'PX', kept)
  for _, entry in ipairs(going) do
    local victim = finish(entry, 'revoked')
    publish('s:' .. victim)
    evicted[#evicted + 1] = victim
  end
end

local live, entries = redis.call('ZCARD', mine), {}
if live >= limit then
  -- What has ended and the sweeper has not come by to.
  local scored = redis.call('ZRANGE', mine, 0, -1, 'WITHSCORES')
  for i = 1, #scored, 2 do
    if tonumber(scored[i + 1]) <= now then
      finish(scored[i], 'expired')
    elseif created_of(scored[i]) <= all then
      finish(scored[i], 'everything')
    else
      entries[#entries + 1] = scored[i]
    end
  end
  live = #entries
end
if live >= limit then
  if policy == 'reject' then
    return { 'limit', sid, user, unpack(describe(entries)) }
  end
  -- A member begins with the time of creation, so the smallest is the oldest.
  local rank = {}
  if policy == 'evict_idle' then
    for _, entry in ipairs(entries) do
      local active = redis.call('HGET', key('session:' .. sid_of(entry)), 'a')
      rank[entry] = string.format('%011x', active or created_of(entry)) .. entry
    end
  end
  for _ = 1, live - limit + 1 do
    local first = 1
    for i = 2, #entries do
      if (rank[entries[i]] or entries[i]) < (rank[entries[first]] or entries[first]) then
        first = i
      end
    end
    local victim = finish(table.remove(entries, first), 'evicted')
    publish('s:' .. victim)
    evicted[#evicted + 1] = victim
  end
end

local absolute = issued + tonumber(ARGV[7])
local expiry = math.min(issued + tonumber(ARGV[6]), absolute)
redis.call('HSET', key('session:' .. sid), 'u', user, 'c', issued, 'x', absolute, 'i', ARGV[6], 'g', 1,
  'h', ARGV[9], 'y', ARGV[11], 'd', ARGV[12], unpack(ARGV, 13))
set_expiry(user, issued, sid, expiry)
retain_agent(ARGV[9], ARGV[10])
count('created:' .. math.floor(now / 3600000) % 24 .. ':' .. ARGV[12])
count('country:' .. ARGV[11] .. ':' .. live - #evicted + 1)
event('session_created', user, sid, '')
return { 'created', sid, user, issued, expiry, absolute, evicted }
