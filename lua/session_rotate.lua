-- session_rotate: exchanges one generation of a refresh token for the next.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 sid, 3 generation presented, 4 seed presented, 5 grace ms,
--        6 how long an unseen successor is given again ms, 7 client family,
--        8 1: refreshing counts as activity
-- Reply  {outcome, sid, user, issued, expiry, generation to hand out} for
--        rotated | concurrent | lost_reply | rolled_forward: the record is read beside it;
--        {outcome, sid, user} for unknown | ended:<cause> | expired | forged | foreign_device,
--        and for reused, which has ended the session.
local sid, presented = ARGV[2], tonumber(ARGV[3])
local session = key('session:' .. sid)
local user, created, seed, current, seen, rotated, family =
  unpack(redis.call('HMGET', session, 'u', 'c', 's', 'g', 'v', 'r', 'f'))
if not user then
  local ended = redis.call('GET', key('ended:' .. sid))
  return { ended and 'ended:' .. string.match(ended, '^%S+') or 'unknown', sid, '' }
end
-- The seed stands sealed in every token: who does not know it has no token of this session.
if seed ~= ARGV[4] then
  return { 'forged', sid, user }
end
created, current, seen = tonumber(created), tonumber(current), tonumber(seen) or 0
local expiry, dead = expiry_of(sid, user, created)
if dead == 'expired' then
  return { 'expired', sid, user }
elseif dead then
  end_session(sid, user, created, redis.call('HGET', session, 'h'), dead)
  publish('s:' .. sid)
  return { 'ended:' .. dead, sid, user }
end

if presented == current - 1 then
  local age = now - (tonumber(rotated) or created)
  local outcome = age <= tonumber(ARGV[5]) and 'concurrent'
    or seen < current and age <= tonumber(ARGV[6]) and 'lost_reply'
  if outcome and family ~= ARGV[7] then
    event('refresh_refused', user, sid, 'foreign_device')
    return { 'foreign_device', sid, user }
  elseif outcome then
    return { outcome, sid, user, issued, expiry, current }
  end
end
if presented < current then
  event('refresh_token_reused', user, sid, 'stale')
  end_session(sid, user, created, redis.call('HGET', session, 'h'), 'reused')
  publish('s:' .. sid)
  return { 'reused', sid, user }
end

-- A generation ahead of the store was issued by a primary whose last writes were lost.
local outcome = presented == current and 'rotated' or 'rolled_forward'
if family == ARGV[7] then
  redis.call('HSET', session, 'g', presented + 1, 'r', now)
else
  redis.call('HSET', session, 'g', presented + 1, 'r', now, 'f', ARGV[7])
end
if ARGV[8] == '1' then
  local limits = redis.call('HMGET', session, 'i', 'x')
  expiry = math.min(now + tonumber(limits[1]), tonumber(limits[2]))
  set_expiry(user, created, sid, expiry)
end
return { outcome, sid, user, issued, expiry, presented + 1 }
