-- The state of an environment may say that there was no memory for it, and since when it was left alone. A version that does
-- not know that is not to read it.
SELECT 1;
