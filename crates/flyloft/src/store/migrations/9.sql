-- Version 9: directories of environments that outlive their deploys, and what they can start with.

CREATE TABLE volumes (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    environment INTEGER NOT NULL REFERENCES environments (id),
    -- In the container
    path        TEXT NOT NULL,
    -- Bytes that it may take
    size        INTEGER NOT NULL,
    -- What is still to be copied into it, by its name
    template    TEXT,
    created_at  INTEGER NOT NULL,
    UNIQUE (environment, path)
) STRICT;

CREATE TABLE volume_templates (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    app         TEXT NOT NULL REFERENCES apps (name),
    name        TEXT NOT NULL,
    -- Whether all of it is there
    ready       INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    UNIQUE (app, name)
) STRICT;
