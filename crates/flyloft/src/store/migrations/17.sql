-- Version 17: which release's `app.json` asked for a volume. None where people added it, or have changed it since; those that
-- are there already count as people's.
ALTER TABLE volumes ADD COLUMN asked INTEGER;
