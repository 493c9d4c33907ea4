-- Schema 6 in SQLite, applied after `schema.sql`: to a new journal at once, to a journal of schema 5 when it is opened.

-- The day of a payment as its file says it: '' if the file gives none, NULL if schema 5 wrote it and the day is not known.
ALTER TABLE write ADD COLUMN day TEXT;

-- A write as recovery needs it.
DROP VIEW doubt;

CREATE VIEW doubt AS
SELECT
    state, key, feed, resource_type, lane, fingerprint, amount_cents, claim, likeness, run_id,
    attempts, resent, since, until, ahead_s, rule, message,
    interaction, coalesce(resource_id, '') AS resource_id, rank, coalesce(held, '') AS held,
    coalesce(held_run, '') AS held_run, held_at, part, orphaned, day
FROM write;

-- Confirmed payments of a patient, to compare with those about to be created.
CREATE INDEX write_payment ON write (lane) WHERE resource_type = 'PaymentNotice';

-- How many files a feed had in a run; NULL if schema 5 wrote it.
ALTER TABLE run_feed ADD COLUMN files INTEGER;

-- The fields of each feed's key, in the order in which they are hashed.
CREATE TABLE feed_key (
    feed TEXT PRIMARY KEY,
    fields TEXT NOT NULL,                           -- separated by blanks
    run_id TEXT NOT NULL                            -- the run that used it last
) STRICT;

-- The Organization that Canvas showed for a payer id, and the write of ours that showed it. A payer id with two
-- Organizations identifies neither.
CREATE TABLE payer_seen (
    payer_id TEXT NOT NULL,
    organization TEXT NOT NULL,                     -- Organization/<id>
    key TEXT NOT NULL,                              -- of the write; '' if references.payer names both
    resource_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (payer_id, organization)
) STRICT, WITHOUT ROWID;

-- A write gives up its resource only after a person has declared that resource gone: it is then listed as not ours.
DROP TRIGGER write_keeps_its_resource;

CREATE TRIGGER write_keeps_its_resource BEFORE UPDATE OF resource_id ON write
WHEN old.resource_id IS NOT NULL AND new.resource_id IS NOT old.resource_id AND NOT (
    new.resource_id IS NULL AND old.state IN ('CONFIRMED', 'REFUSED') AND new.state = 'PENDING' AND EXISTS (
        SELECT 1 FROM foreign_resource
        WHERE resource_type = old.resource_type AND lane = old.lane AND resource_id = old.resource_id
    )
)
BEGIN
    SELECT raise(ABORT, 'a write keeps its resource');
END;

CREATE TRIGGER write_payment_stays_confirmed BEFORE UPDATE OF state ON write
WHEN old.resource_type = 'PaymentNotice' AND old.state = 'CONFIRMED' AND new.resource_id IS NOT NULL
BEGIN
    SELECT raise(ABORT, 'a payment that Canvas holds is not sent again');
END;
