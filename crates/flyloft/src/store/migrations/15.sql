-- Version 15: certificates that are asked for by ACME.

CREATE TABLE acme_accounts (
    -- The server's directory
    directory   TEXT PRIMARY KEY,
    -- Sealed, see the vault
    credentials BLOB NOT NULL
) STRICT;

CREATE TABLE acme_orders (
    -- What the certificate is for, such as `*.staging.example.org`
    name      TEXT PRIMARY KEY,
    directory TEXT NOT NULL,
    url       TEXT NOT NULL,
    -- The private key of what is asked for, sealed
    key       BLOB NOT NULL
) STRICT;

-- Each order of the last week, whatever became of it. In seconds since 1970.
CREATE TABLE acme_ordered (
    name TEXT NOT NULL,
    at   INTEGER NOT NULL
) STRICT;
