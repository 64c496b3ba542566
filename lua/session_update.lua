-- session_update: what the owner may change of a session. Its device is renamed with it, and forgotten
-- when the session is not to be remembered any more.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 sid, 3 owner, 4 device name (empty: unchanged),
--        5 remembered (0, 1, empty: unchanged), 6 idle ms when remembered changes
-- Reply  {live, sid, user, issued, expiry, agent, record}
--        {unknown, sid, user}: not live, or not the owner's
local sid, owner = ARGV[2], ARGV[3]
local record = read(sid)
local expiry = record and record.u == owner and expiry_of(sid, record.u, tonumber(record.c))
if not expiry then
  return { 'unknown', sid, owner }
end
local devices = key('device:' .. owner)
if ARGV[4] ~= '' then
  redis.call('HSET', key('session:' .. sid), 'n', ARGV[4])
  local times = record.z and string.match(redis.call('HGET', devices, record.z) or '', '^%d+ %d+ ')
  if times then
    redis.call('HSET', devices, record.z, times .. ARGV[4])
  end
end
if ARGV[5] == '0' and record.z then
  redis.call('HDEL', devices, record.z)
end
if ARGV[5] ~= '' then
  redis.call('HSET', key('session:' .. sid), 'm', ARGV[5], 'i', ARGV[6])
  -- The absolute limit stays where the login put it.
  expiry = math.min(tonumber(record.a or record.c) + tonumber(ARGV[6]), tonumber(record.x))
  set_expiry(owner, tonumber(record.c), sid, expiry)
end
local updated, flat = read(sid)
return { 'live', sid, owner, issued, expiry, agent_of(updated), flat }
