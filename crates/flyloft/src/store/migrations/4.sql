-- Version 4: what environments hold awake and asleep, and for how long they have slept.

-- Bytes, just before it was last put to rest
ALTER TABLE environments ADD COLUMN memory_awake INTEGER;
-- JSON, what was left when it was last put to sleep
ALTER TABLE environments ADD COLUMN memory_asleep TEXT;
-- Milliseconds since the Unix epoch, by the clock of the life cycle; NULL while it is awake
ALTER TABLE environments ADD COLUMN down_since INTEGER;
-- Microseconds that it had not been awake before this wake
ALTER TABLE wakes ADD COLUMN slept INTEGER NOT NULL DEFAULT 0;
