-- revoke_everything: everything in the bucket that was issued before now is dead. O(1): the
-- sweeper clears the records away.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms
-- Reply  {ended, cut-off}
-- Works when memory is full.
redis.call('HSET', feed, 'all', issued, 'cut', issued)
if redis.call('EXISTS', key('expiry')) == 1 then
  if redis.call('EXISTS', key('dying')) == 1 then
    redis.call('ZUNIONSTORE', key('dying'), 2, key('dying'), key('expiry'))
    redis.call('DEL', key('expiry'))
  else
    redis.call('RENAME', key('expiry'), key('dying'))
  end
end
publish(string.format('a:%.0f', issued))
event('everything_revoked', '', '', '')
return { 'ended', issued }
