-- Version 14: ports of environments that the host publishes.

CREATE TABLE ports (
    environment INTEGER NOT NULL REFERENCES environments (id),
    protocol    TEXT NOT NULL CHECK (protocol IN ('tcp', 'udp')),
    -- Of the environment's container, and of the host
    port        INTEGER NOT NULL,
    host_port   INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (environment, protocol, port),
    UNIQUE (protocol, host_port)
) STRICT;
