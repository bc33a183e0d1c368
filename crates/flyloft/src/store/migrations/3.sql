-- Version 3: settings of apps and of environments, and how environments woke.

-- JSON, {"idle": "5m"}
ALTER TABLE apps ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';
ALTER TABLE environments ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';

CREATE TABLE wakes (
    environment INTEGER NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    at          INTEGER NOT NULL,
    -- Who or what woke it, for people
    by          TEXT NOT NULL,
    -- What it was woken from: 'asleep', 'deep', 'off', or 'awake' where it was started anew
    was         TEXT NOT NULL,
    -- Microseconds: until its turn came, until its processes ran, until they answered, and all together
    queued      INTEGER NOT NULL,
    started     INTEGER NOT NULL,
    answered    INTEGER NOT NULL,
    total       INTEGER NOT NULL,
    -- Why it did not come up, if it did not
    failure     TEXT
) STRICT;
CREATE INDEX wakes_of ON wakes (environment, at);
