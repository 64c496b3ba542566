-- session_list: the live sessions of a user. Writes nothing.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 user
-- Reply  {listed, user, {sid, expiry, agent, record}..}
return { 'listed', ARGV[2], unpack(describe(redis.call('ZRANGE', key('user:' .. ARGV[2]), 0, -1))) }
