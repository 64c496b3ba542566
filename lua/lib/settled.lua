-- In a Cluster only. While the bucket's slot is on the move, one server has some of its keys and
-- another the rest, and a script would see half of them. A key that is nowhere is refused then, so
-- the script ends here, before it has written anything.
redis.call('EXISTS', string.sub(KEYS[1], 1, -5) .. 'settled')
