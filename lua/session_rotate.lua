-- session_rotate: exchanges one generation of a refresh token for the next.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 sid, 3 generation presented, 4 seed presented, 5 grace ms,
--        6 how long an unseen successor is given again ms, 7 client family,
--        8 1: refreshing counts as activity
-- Reply  {outcome, sid, user, issued, expiry, generation to hand out, record} for
--        rotated | concurrent | lost_reply | rolled_forward;
--        {outcome, sid, user} for unknown | ended:<cause> | expired | forged | foreign_device,
--        and for reused, which has ended the session.
local sid, presented = ARGV[2], tonumber(ARGV[3])
local record, flat = read(sid)
if not record then
  local ended = redis.call('GET', key('ended:' .. sid))
  return { ended and 'ended:' .. string.match(ended, '^%S+') or 'unknown', sid, '' }
end
local user = record.u
-- The seed stands sealed in every token: who does not know it has no token of this session.
if record.s ~= ARGV[4] then
  return { 'forged', sid, user }
end
local expiry, dead = expiry_of(sid, record)
if dead == 'expired' then
  return { 'expired', sid, user }
elseif dead then
  end_session(sid, user, tonumber(record.c), record.h, dead)
  publish('s:' .. sid)
  return { 'ended:' .. dead, sid, user }
end

local current, seen = tonumber(record.g), tonumber(record.v)
local function hand_out(outcome, generation)
  return { outcome, sid, user, issued, expiry, generation, flat }
end

if presented == current - 1 then
  local age = now - tonumber(record.r)
  local outcome = age <= tonumber(ARGV[5]) and 'concurrent'
    or seen < current and age <= tonumber(ARGV[6]) and 'lost_reply'
  if outcome and record.f ~= ARGV[7] then
    event('refresh_refused', user, sid, 'foreign_device')
    return { 'foreign_device', sid, user }
  elseif outcome then
    return hand_out(outcome, current)
  end
end
if presented < current then
  event('refresh_token_reused', user, sid, 'stale')
  end_session(sid, user, tonumber(record.c), record.h, 'reused')
  publish('s:' .. sid)
  return { 'reused', sid, user }
end

-- A generation ahead of the store was issued by a primary whose last writes were lost.
local outcome = presented == current and 'rotated' or 'rolled_forward'
redis.call('HSET', key('session:' .. sid), 'g', presented + 1, 'v', presented, 'r', now, 'f', ARGV[7])
if ARGV[8] == '1' then
  expiry = math.min(now + tonumber(record.i), tonumber(record.x))
  set_expiry(user, tonumber(record.c), sid, expiry)
end
return hand_out(outcome, presented + 1)
