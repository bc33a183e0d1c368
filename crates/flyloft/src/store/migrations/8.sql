-- Version 8: databases that are told by a number, as those of Redis. `kind` is `redis/database` where an environment has one.

ALTER TABLE services ADD COLUMN number INTEGER;
