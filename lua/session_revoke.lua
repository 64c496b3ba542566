-- session_revoke: ends one session.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 sid, 3 owner, 4 cause
-- Reply  {ended, sid, user}, also when it was ended before and this is the same request again;
--        {unknown, sid, user}: there is none, or not the owner's
-- Works when memory is full: a revocation frees more than it takes.
local sid, owner, cause = ARGV[2], ARGV[3], ARGV[4]
local record = redis.call('HMGET', key('session:' .. sid), 'u', 'c', 'h')
if not record[1] then
  local ended = redis.call('GET', key('ended:' .. sid))
  local same = ended and string.match(ended, '^%S+ (.*)$') == owner
  return { same and 'ended' or 'unknown', sid, owner }
elseif record[1] ~= owner then
  return { 'unknown', sid, owner }
end
end_session(sid, owner, tonumber(record[2]), record[3], cause)
publish('s:' .. sid)
return { 'ended', sid, owner }
