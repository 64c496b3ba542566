-- device_seen: remembers a device of a user, at most 20 of them.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 user, 3 device, 4 its name
-- Reply  {seen, user, device}
local devices, user, device = key('device:' .. ARGV[2]), ARGV[2], ARGV[3]
local first = string.match(redis.call('HGET', devices, device) or '', '^(%d+) ') or string.format('%.0f', now)
redis.call('HSET', devices, device, first .. string.format(' %.0f ', now) .. ARGV[4])
if redis.call('HLEN', devices) > 20 then
  local all, oldest, when = redis.call('HGETALL', devices), nil, nil
  for i = 1, #all, 2 do
    local last = tonumber(string.match(all[i + 1], '^%d+ (%d+) '))
    if all[i] ~= device and (not when or last < when) then
      oldest, when = all[i], last
    end
  end
  redis.call('HDEL', devices, oldest)
end
-- Browsers keep no cookie for longer.
redis.call('EXPIRE', devices, 400 * 86400)
return { 'seen', user, device }
