-- feed_confirm: a write that comes after a revocation, so that replicas which have it have both.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms, 2 statement
-- Reply  {confirmed, 1 when the bucket knows of the revocation}
-- Works when memory is full.
redis.call('HSET', feed, 'beat', now)
return { 'confirmed', redis.call('ZSCORE', key('revoked:index'), ARGV[2]) and 1 or 0 }
