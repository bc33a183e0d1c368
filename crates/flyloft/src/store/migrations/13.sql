-- Version 13: the password of an app's gates, as a hash that says how it was made.

ALTER TABLE apps ADD COLUMN gate_password TEXT;
