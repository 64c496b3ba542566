-- feed_tail: where the feed ends. Who follows from here and knows the tombstones misses nothing.
-- KEYS   1 feed of the bucket
-- ARGV   1 retention ms
-- Reply  {tail, key, seq, id of the last entry}
return { 'tail', feed, seq, last }
