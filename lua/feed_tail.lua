-- feed_tail: where the feed ends. Who follows from here and knows the tombstones misses nothing.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms
-- Reply  {tail, seq, id of the last entry}
local last = redis.call('XREVRANGE', key('revoked'), '+', '-', 'COUNT', 1)
return { 'tail', tonumber(redis.call('HGET', feed, 'seq')) or 0, last[1] and last[1][1] or '0-0' }
