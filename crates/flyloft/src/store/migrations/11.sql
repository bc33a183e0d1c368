-- Version 11: servers that the daemon runs itself.

CREATE TABLE managed (
    -- Names the container and the volume, and is never given twice
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    server  TEXT NOT NULL UNIQUE REFERENCES servers (name),
    -- Such as `debian-13`
    stack   TEXT NOT NULL,
    -- The day since 1970 on which its packages were taken; 0 for those that the stack had
    edition INTEGER NOT NULL,
    -- Bytes that it may take
    memory  INTEGER NOT NULL,
    disk    INTEGER NOT NULL
) STRICT;
