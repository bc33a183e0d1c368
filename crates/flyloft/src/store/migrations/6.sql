-- Version 6: what environments have on servers.

CREATE TABLE services (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    -- NULL once it is destroyed; what is here is still on the server then
    environment INTEGER REFERENCES environments (id),
    server      TEXT NOT NULL REFERENCES servers (name),
    kind        TEXT NOT NULL,
    -- What its variable is called, as in REPORTS_URL; empty for that of the kind
    alias       TEXT NOT NULL,
    -- On the server
    name        TEXT NOT NULL,
    -- Sealed with the key in `secrets.key`, for `service SERVER/NAME`
    password    BLOB NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('making', 'ready', 'dropping')),
    created_at  INTEGER NOT NULL,
    UNIQUE (environment, kind, alias),
    UNIQUE (server, name)
) STRICT;
