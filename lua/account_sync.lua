-- account_sync: makes the sessions of a user agree with the password file, however often and by however
-- many gateways it is told.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 user, 3 mark of their password (- when they are disabled, empty when the file
--        does not name them any more), 4 cause
-- Reply  {ended, user, sid..}
-- Works when memory is full.
local user, mark = ARGV[2], ARGV[3]
local accounts = key('accounts')
local before = redis.call('HGET', accounts, user)
local changed = before and before ~= mark
local ended = { 'ended', user }
for _, entry in ipairs(redis.call('ZRANGE', key('user:' .. user), 0, -1)) do
  local sid = sid_of(entry)
  local agent, with = unpack(redis.call('HMGET', key('session:' .. sid), 'h', 'k'))
  -- A session says which password it began with; one that a backend began says nothing.
  if mark == '-' or with and with ~= mark or not with and mark ~= '' and changed then
    end_session(sid, user, created_of(entry), agent, ARGV[4])
    publish('s:' .. sid)
    ended[#ended + 1] = sid
  end
end
if mark == '-' and before ~= '-' then
  -- Also for a session that the set does not name.
  redis.call('HSET', feed, 'cut', issued)
  publish(string.format('u:%.0f:-:%s', issued, user))
end
if mark == '' then
  redis.call('HDEL', accounts, user)
elseif before ~= mark then
  redis.call('HSET', accounts, user, mark)
end
return ended
