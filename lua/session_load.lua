-- session_load: the record of a session, if it is live at this moment. Writes nothing.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 sid
-- Reply  {live, sid, user, issued, expiry, record}
--        {unknown, sid, user}: it is not live
local sid = ARGV[2]
local record, flat = read(sid)
local expiry = record and expiry_of(sid, record.u, tonumber(record.c))
if not expiry then
  return { 'unknown', sid, '' }
end
return { 'live', sid, record.u, issued, expiry, flat }
