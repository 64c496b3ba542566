-- session_revoke_all: ends every session of a user that was created before now, except one.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 user, 3 sid to keep (- for none), 4 cause
-- Reply  {ended, user, the last instant that is covered, sid that is kept (- for none), sid..}
-- Works when memory is full.
local user, kept = ARGV[2], ARGV[3]
-- Who asks was let in from memory, which may be behind: what has ended meanwhile is not kept alive.
if kept ~= '-' then
  local owner, created = unpack(redis.call('HMGET', key('session:' .. kept), 'u', 'c'))
  if owner ~= user or not expiry_of(kept, user, tonumber(created)) then
    kept = '-'
  end
end
local ended = { 'ended', user, issued, kept }
for _, entry in ipairs(redis.call('ZRANGE', key('user:' .. user), 0, -1)) do
  local sid = sid_of(entry)
  if sid ~= kept then
    end_session(sid, user, created_of(entry), redis.call('HGET', key('session:' .. sid), 'h'), ARGV[4])
    ended[#ended + 1] = sid
  end
end
-- The cut-off covers every token of the user, also of a session that the set does not name.
redis.call('HSET', feed, 'cut', issued)
publish(string.format('u:%.0f:%s:%s', issued, kept, user))
return ended
