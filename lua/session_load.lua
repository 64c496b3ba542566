-- session_load: one session, if it is live at this moment. Writes nothing.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 sid
-- Reply  {live, sid, user, issued, expiry, agent, record}
--        {unknown | expired | orphaned | everything | ended:<cause>, sid, user}
local sid = ARGV[2]
local record, flat = read(sid)
if not record then
  local ended = redis.call('GET', key('ended:' .. sid))
  return { ended and 'ended:' .. string.match(ended, '^%S+') or 'unknown', sid, '' }
end
local expiry, dead = expiry_of(sid, record)
if dead then
  return { dead, sid, record.u }
end
return { 'live', sid, record.u, issued, expiry, agent_of(record), flat }
