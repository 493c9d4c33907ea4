-- Schema 7 in PostgreSQL, applied after `schema_6_postgres.sql`; `schema_7.sql` explains it.

ALTER TABLE run_feed ADD COLUMN is_change INTEGER NOT NULL DEFAULT 0;

ALTER TABLE run_feed ADD COLUMN interchanges TEXT COLLATE "C" NOT NULL DEFAULT '[]';

ALTER TABLE write ADD COLUMN end_on TEXT COLLATE "C";
ALTER TABLE write ADD COLUMN held_end TEXT COLLATE "C";

-- A write as recovery needs it.
DROP VIEW doubt;

CREATE VIEW doubt AS
SELECT
    state, key, feed, resource_type, lane, fingerprint, amount_cents, claim, likeness, run_id,
    attempts, resent, since, until, ahead_s, rule, message,
    interaction, coalesce(resource_id, '') AS resource_id, rank, coalesce(held, '') AS held,
    coalesce(held_run, '') AS held_run, held_at, part, orphaned, day, end_on
FROM write;

CREATE TABLE subscriber (
    id_hash TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    lane TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    PRIMARY KEY (id_hash, key)
);
