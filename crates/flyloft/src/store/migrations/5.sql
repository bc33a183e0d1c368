-- Version 5: servers of databases and the like, as an administrator has told them.

CREATE TABLE servers (
    name        TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,
    -- Without the password
    url         TEXT NOT NULL,
    -- Sealed with the key in `secrets.key`, for `server NAME`
    password    BLOB NOT NULL,
    -- Certificates that vouch for it, as PEM; NULL for those that the machine trusts
    ca          TEXT,
    created_at  INTEGER NOT NULL
) STRICT;
