-- rate_limit: one decision about one subject (GCRA), and its price.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 subject, 3 ms that an attempt takes to be forgotten, 4 attempts at once,
--        5 price in attempts (negative: given back, and the row ends), 6 longest wait ms,
--        7 1: past the attempts at once each of a row costs twice the one before
-- Reply  {allowed | limited, subject, attempts left, ms until one is allowed, ms until all are}
local subject = key('limit:' .. ARGV[2])
local interval, most, price, longest = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local tolerance, rows = interval * most, ARGV[7] == '1'
local free, row = string.match(redis.call('GET', subject) or '', '^(%d+) (%d+)$')
free, row = math.max(tonumber(free) or 0, now), tonumber(row) or 0

local outcome = 'allowed'
if price < 0 then
  free, row = math.max(now, free + price * interval), 0
elseif free + interval - now > tolerance then
  outcome = 'limited'
else
  row = row + 1
  if rows then
    price = price * 2 ^ math.min(math.max(row - most, 0), 20)
  end
  free = math.min(free + price * interval, now + tolerance - interval + longest)
end
if outcome == 'allowed' then
  -- A row is remembered for an hour after its last attempt.
  local kept = math.max(free - now, rows and row > 0 and 3600000 or 1)
  redis.call('SET', subject, string.format('%.0f %.0f', free, row), 'PX', string.format('%.0f', kept))
end
local left = math.max(0, math.floor((now + tolerance - free) / interval))
return { outcome, ARGV[2], left, math.max(0, free + interval - tolerance - now), free - now }
