-- session_touch: records activity of up to 64 sessions. Never brings back one that has ended.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, then per session: sid, age of the activity ms, generation seen in use,
--        ip, country, city (the last three empty: unchanged)
-- Reply  {touched, live sid..}
local touched = { 'touched' }
for i = 2, #ARGV, 6 do
  local sid = ARGV[i]
  local session = key('session:' .. sid)
  local fields = redis.call('HMGET', session, 'u', 'c', 'x', 'i', 'a', 'v')
  local record = { u = fields[1], c = fields[2] }
  local expiry = fields[1] and expiry_of(sid, record)
  if expiry then
    local active = math.max(tonumber(fields[5]), now - tonumber(ARGV[i + 1]))
    local changes = { 'a', active, 'v', math.max(tonumber(fields[6]), tonumber(ARGV[i + 2])) }
    if ARGV[i + 3] ~= '' then
      for _, change in ipairs({ 'p', ARGV[i + 3], 'y', ARGV[i + 4], 'l', ARGV[i + 5] }) do
        changes[#changes + 1] = change
      end
    end
    redis.call('HSET', session, unpack(changes))
    local extended = math.min(active + tonumber(fields[4]), tonumber(fields[3]))
    if extended > expiry then
      set_expiry(fields[1], tonumber(fields[2]), sid, extended)
    end
    touched[#touched + 1] = sid
  end
end
return touched
