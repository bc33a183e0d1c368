-- Version 2: environments that follow a branch or a pull request of the repository that their app comes from.

CREATE TABLE follows (
    environment INTEGER PRIMARY KEY REFERENCES environments (id) ON DELETE CASCADE,
    -- The repository in which it was seen. What is gone from another one was never there.
    url         TEXT NOT NULL,
    -- The commit at which it was last seen, once that was staged
    head        TEXT NOT NULL,
    -- When it was last looked for and not found, and for how many milliseconds that has gone on; both NULL and 0 if it
    -- was found
    missing_at  INTEGER,
    missing_for INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What came by `flyloft up --branch` or `--pr`, and not by a push since
INSERT INTO follows (environment, url, head)
SELECT environments.id, apps.git_url, releases.commit_id
FROM environments
JOIN apps ON apps.name = environments.app
JOIN releases ON releases.environment = environments.id
WHERE apps.git_url IS NOT NULL
    AND json_extract(environments.origin, '$.kind') IN ('branch', 'pull-request')
    AND releases.reason = 'up'
    AND releases.commit_id IS NOT NULL
    AND releases.number = (
        SELECT max(number) FROM releases AS newest
        WHERE newest.environment = environments.id AND newest.reason IN ('up', 'push'));
