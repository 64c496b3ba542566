-- Sessions as they leave a script: sid, expiry, text of the user agent, record.
local function agent_of(record)
  return record.h and record.h ~= '' and redis.call('HGET', key('agents'), record.h) or ''
end

local function describe(entries)
  local sessions = {}
  for _, entry in ipairs(entries) do
    local record, flat = read(sid_of(entry))
    local expiry = record and expiry_of(sid_of(entry), record.u, tonumber(record.c))
    if expiry then
      sessions[#sessions + 1] = { sid_of(entry), expiry, agent_of(record), flat }
    end
  end
  return sessions
end
