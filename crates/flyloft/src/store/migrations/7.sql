-- Version 7: data that databases begin with, hooks, and variables that pull requests have.

CREATE TABLE templates (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    -- As people call it; NULL once it is to go
    name       TEXT UNIQUE,
    server     TEXT NOT NULL REFERENCES servers (name),
    kind       TEXT NOT NULL,
    -- On the server
    database   TEXT NOT NULL,
    -- Sealed with the key in `secrets.key`, for `service SERVER/DATABASE`
    password   BLOB NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('making', 'ready', 'dropping')),
    created_at INTEGER NOT NULL,
    UNIQUE (server, database)
) STRICT;

-- When `scripts.postdeploy` of its `app.json` has run; NULL before that
ALTER TABLE environments ADD COLUMN postdeployed_at INTEGER;
UPDATE environments SET postdeployed_at = created_at WHERE live IS NOT NULL;

-- Whether pull requests have it, too. Of an environment's own it says nothing
ALTER TABLE variables ADD COLUMN shared INTEGER NOT NULL DEFAULT 0;
