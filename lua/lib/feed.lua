-- Publishing a revocation: a tombstone for those who resync, an entry for those who follow.
-- Nothing that it speaks of was issued later than its time.
-- A statement is `s:<sid>`, `c:<before>:<sid>` (its credentials, not it),
-- `u:<before>:<kept sid or ->:<user>` or `a:<before>`.
-- Each entry names the one before it (`p`): two histories that parted are never taken for one.
local function publish(statement)
  redis.call('ZADD', key('revoked:index'), issued, statement)
  seq = seq + 1
  last = redis.call('XADD', key('revoked'), 'MINID', '~', string.format('%.0f', now - retention), '*',
    'q', seq, 'p', last, 't', issued, 'm', statement)
  redis.call('HSET', feed, 'seq', seq, 'last', last)
end
