-- Version 1. Times are milliseconds since the Unix epoch. Ids are never used again.

CREATE TABLE apps (
    name        TEXT PRIMARY KEY,
    git_url     TEXT,
    -- How often it was built anew from nothing
    generation  INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE credentials (
    app         TEXT PRIMARY KEY REFERENCES apps (name) ON DELETE CASCADE,
    kind        TEXT NOT NULL CHECK (kind IN ('token', 'deploy-key')),
    host        TEXT NOT NULL,
    username    TEXT NOT NULL,
    secret      TEXT NOT NULL
) STRICT;

CREATE TABLE environments (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    app         TEXT NOT NULL REFERENCES apps (name),
    name        TEXT NOT NULL,
    -- One label and the domain. Unique, so that two environments never answer at one name.
    host        TEXT NOT NULL UNIQUE,
    -- JSON of what it follows: {"kind": "branch", "of": "main"}
    origin      TEXT NOT NULL,
    -- JSON of the life cycle's state
    state       TEXT NOT NULL,
    -- JSON, {"worker": 1}
    formation   TEXT NOT NULL DEFAULT '{}',
    -- The release that serves, its container and the address at which it answered.
    live        INTEGER,
    container   TEXT,
    upstream    TEXT,
    -- How many containers were ever made for it: part of the next one's name.
    containers  INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    UNIQUE (app, name)
) STRICT;

CREATE TABLE releases (
    environment INTEGER NOT NULL REFERENCES environments (id) ON DELETE CASCADE,
    number      INTEGER NOT NULL,
    commit_id   TEXT,
    -- Why there is this release: "push", "up", "config", "scale", "restart", "rollback to v2"
    reason      TEXT NOT NULL,
    by          TEXT NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('pending', 'live', 'retired', 'failed')),
    -- JSON of all that is needed to launch it again, once it is known: see `Content` in releases.rs
    content     TEXT,
    failure     TEXT,
    created_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    PRIMARY KEY (environment, number)
) STRICT, WITHOUT ROWID;

-- What a deploy is about to do, written before it does it.
CREATE TABLE steps (
    environment INTEGER NOT NULL,
    release     INTEGER NOT NULL,
    step        TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    PRIMARY KEY (environment, release, step),
    FOREIGN KEY (environment, release) REFERENCES releases (environment, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Variables of an app (environment 0) or of one of its environments.
CREATE TABLE variables (
    app         TEXT NOT NULL REFERENCES apps (name) ON DELETE CASCADE,
    environment INTEGER NOT NULL,
    name        TEXT NOT NULL,
    value       TEXT NOT NULL,
    PRIMARY KEY (app, environment, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
    name        TEXT PRIMARY KEY,
    -- OpenSSH's one-line form without the comment, and its SHA-256 fingerprint
    public_key  TEXT NOT NULL,
    fingerprint TEXT NOT NULL UNIQUE,
    admin       INTEGER NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE key_apps (
    key         TEXT NOT NULL REFERENCES keys (name) ON DELETE CASCADE,
    app         TEXT NOT NULL,
    PRIMARY KEY (key, app)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL,
    app         TEXT NOT NULL,
    environment TEXT,
    kind        TEXT NOT NULL,
    by          TEXT NOT NULL,
    text        TEXT NOT NULL
) STRICT;
CREATE INDEX events_of ON events (app, environment, id);
