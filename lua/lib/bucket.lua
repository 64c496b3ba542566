-- The bucket a script runs in: its keys, its clock, its cut-offs.
-- KEYS[1] is the bucket's feed hash. It routes the script to its slot; every other key of the
-- bucket shares its prefix, because which of them a script touches depends on what it reads.
local feed = KEYS[1]
local prefix = string.sub(feed, 1, -5)
local retention = tonumber(ARGV[1])

local function key(name)
  return prefix .. name
end

-- `all`: sessions created up to this time are dead. `cut`: the newest cut-off of any kind.
-- `beat`: the newest time a heartbeat saw, so that the clock never runs back after a failover.
-- `seq`, `last`: the number of the newest revocation and its id in the stream.
local marks = redis.call('HMGET', feed, 'all', 'cut', 'beat', 'seq', 'last')
local all = tonumber(marks[1]) or 0
local cut = tonumber(marks[2]) or 0
local seq, last = tonumber(marks[4]) or 0, marks[5] or '0-0'
local time = redis.call('TIME')
local clock = time[1] * 1000 + math.floor(time[2] / 1000)
local now = math.max(clock, tonumber(marks[3]) or 0)

-- What is issued after a cut-off is later than it, even within one millisecond.
local issued = math.max(now, cut + 1)
