-- Schema 7 in SQLite, applied after `schema_6.sql`: to a new journal at once, to one of schema 5 or 6 when it is opened.

-- Whether the files of a feed in a run hold changes only, so that a row that is not in them is not missing.
ALTER TABLE run_feed ADD COLUMN is_change INTEGER NOT NULL DEFAULT 0;

-- The X12 interchanges among them, as a JSON list of identity, SHA-256 and time of creation, so that none is loaded in place
-- of a later one.
ALTER TABLE run_feed ADD COLUMN interchanges TEXT NOT NULL DEFAULT '[]';

-- The last day of a coverage that a run ends because its row is gone: as it is to be, and as Canvas was last confirmed to have
-- it. NULL: its row is there, or was left alone.
ALTER TABLE write ADD COLUMN end_on TEXT;

ALTER TABLE write ADD COLUMN held_end TEXT;

-- A write as recovery needs it.
DROP VIEW doubt;

CREATE VIEW doubt AS
SELECT
    state, key, feed, resource_type, lane, fingerprint, amount_cents, claim, likeness, run_id,
    attempts, resent, since, until, ahead_s, rule, message,
    interaction, coalesce(resource_id, '') AS resource_id, rank, coalesce(held, '') AS held,
    coalesce(held_run, '') AS held_run, held_at, part, orphaned, day, end_on
FROM write;

-- Whose row has relationship self and a subscriber id: dependents that come alone have that patient as their subscriber
-- once Canvas has confirmed the row (`references.subscriber`). `number`: of the audit log, when a plan with the row was
-- last begun; a greater one is later.
CREATE TABLE subscriber (
    id_hash TEXT NOT NULL,                          -- over the feed and the subscriber id
    key TEXT NOT NULL,                              -- of the row
    lane TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (id_hash, key)
) STRICT, WITHOUT ROWID;
