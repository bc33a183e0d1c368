-- Version 10: a wake goes on until a visitor sees its answer.

-- What was `answered` is when the app was known to answer
ALTER TABLE wakes RENAME COLUMN answered TO ready;
-- Microseconds until there was room for it to be awake
ALTER TABLE wakes ADD COLUMN admitted INTEGER NOT NULL DEFAULT 0;
-- From `ready` on, until the first who waited for an answer did not have to wait any more, until it had a connection, and
-- until its answer began; NULL where it did not come to that
ALTER TABLE wakes ADD COLUMN passed INTEGER;
ALTER TABLE wakes ADD COLUMN connected INTEGER;
ALTER TABLE wakes ADD COLUMN answered INTEGER;
-- Beside that, from the thaw on: until what it touched at its last wake was in memory, and until nobody was held back any
-- more so that others wake first; NULL where that was not so by then
ALTER TABLE wakes ADD COLUMN prefetched INTEGER;
ALTER TABLE wakes ADD COLUMN released INTEGER;
