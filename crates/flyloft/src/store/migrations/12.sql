-- Version 12: how often the links to an environment were revoked.

ALTER TABLE environments ADD COLUMN gate_generation INTEGER NOT NULL DEFAULT 0;
