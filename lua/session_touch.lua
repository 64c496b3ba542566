-- session_touch: records activity of up to 64 sessions. Never brings back one that has ended.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, then per session: sid, age of the activity ms, generation seen in use,
--        ip, country, city (the last three empty: unchanged)
-- Reply  {touched, live sid..}
local touched = { 'touched' }
for i = 2, #ARGV, 6 do
  local sid = ARGV[i]
  local session = key('session:' .. sid)
  local user, created, absolute, idle, last, seen =
    unpack(redis.call('HMGET', session, 'u', 'c', 'x', 'i', 'a', 'v'))
  created = tonumber(created)
  local expiry = user and expiry_of(sid, user, created)
  if expiry then
    local active = math.max(tonumber(last) or created, now - tonumber(ARGV[i + 1]))
    local changes = { 'a', active, 'v', math.max(tonumber(seen) or 0, tonumber(ARGV[i + 2])) }
    if ARGV[i + 3] ~= '' then
      for _, change in ipairs({ 'p', ARGV[i + 3], 'y', ARGV[i + 4], 'l', ARGV[i + 5] }) do
        changes[#changes + 1] = change
      end
    end
    redis.call('HSET', session, unpack(changes))
    local extended = math.min(active + tonumber(idle), tonumber(absolute))
    if extended > expiry then
      set_expiry(user, created, sid, extended)
    end
    touched[#touched + 1] = sid
  end
end
return touched
