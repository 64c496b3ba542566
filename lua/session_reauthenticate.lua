-- session_reauthenticate: the user of a session proved again who they are. It goes on with new
-- credentials, and everything that was issued for it before is dead.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 sid, 3 user, 4 new seed, 5 how they proved it, 6 mark of their password
-- Reply  {live, sid, user, issued, expiry, agent, record}
--        {unknown, sid, user}: not live, or not theirs
local sid, user = ARGV[2], ARGV[3]
local session, record = key('session:' .. sid), read(sid)
local expiry = record and record.u == user and expiry_of(sid, user, tonumber(record.c))
if not expiry then
  return { 'unknown', sid, user }
end
redis.call('HSET', feed, 'cut', issued)
publish(string.format('c:%.0f:%s', issued, sid))
issued = issued + 1
redis.call('HDEL', session, 'r')
redis.call('HSET', session, 's', ARGV[4], 'g', tonumber(record.g) + 1, 't', issued, 'w', ARGV[5], 'k', ARGV[6], 'a', now)
expiry = math.min(now + tonumber(record.i), tonumber(record.x))
set_expiry(user, tonumber(record.c), sid, expiry)
event('session_reauthenticated', user, sid, '')
local updated, flat = read(sid)
return { 'live', sid, user, issued, expiry, agent_of(updated), flat }
