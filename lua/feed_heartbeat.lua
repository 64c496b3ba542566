-- feed_heartbeat: proves, by a write, what the newest revocation is.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 number of this heartbeat
-- Reply  {beat, number, seq, id of the last entry, time of the server ms}
redis.call('HSET', feed, 'beat', now)
return { 'beat', ARGV[2], seq, last, clock }
