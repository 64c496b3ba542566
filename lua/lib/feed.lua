-- Publishing a revocation: a number, a tombstone for those who resync, an entry for those who follow.
-- Nothing that it speaks of was issued later than its time.
-- A statement is `s:<sid>`, `c:<before>:<sid>` (its credentials, not it),
-- `u:<before>:<kept sid or ->:<user>` or `a:<before>`.
local function publish(statement)
  local seq = redis.call('HINCRBY', feed, 'seq', 1)
  redis.call('ZADD', key('revoked:index'), issued, statement)
  redis.call('XADD', key('revoked'), 'MINID', '~', string.format('%.0f', now - retention), '*',
    'q', seq, 't', issued, 'm', statement)
end
