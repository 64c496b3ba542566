-- session_live: whose a session is, if it is live at this moment.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 sid
-- Reply  {live, sid, user}
--        {unknown | expired | orphaned | everything | ended:<cause>, sid, user}
-- Works when memory is full. Writes nothing, but counts as a write: a primary that was cut off and
-- replaced goes on answering reads.
local sid = ARGV[2]
local user, created = unpack(redis.call('HMGET', key('session:' .. sid), 'u', 'c'))
if not user then
  local ended = redis.call('GET', key('ended:' .. sid))
  return { ended and 'ended:' .. string.match(ended, '^%S+') or 'unknown', sid, '' }
end
local expiry, dead = expiry_of(sid, user, tonumber(created))
return { expiry and 'live' or dead, sid, user }
