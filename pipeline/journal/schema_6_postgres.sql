-- Schema 6 in PostgreSQL, applied after `schema_postgres.sql`; `schema_6.sql` explains it.

ALTER TABLE write ADD COLUMN day TEXT COLLATE "C";

-- A write as recovery needs it.
DROP VIEW doubt;

CREATE VIEW doubt AS
SELECT
    state, key, feed, resource_type, lane, fingerprint, amount_cents, claim, likeness, run_id,
    attempts, resent, since, until, ahead_s, rule, message,
    interaction, coalesce(resource_id, '') AS resource_id, rank, coalesce(held, '') AS held,
    coalesce(held_run, '') AS held_run, held_at, part, orphaned, day
FROM write;

CREATE INDEX write_payment ON write (lane) WHERE resource_type = 'PaymentNotice';

ALTER TABLE run_feed ADD COLUMN files INTEGER;

CREATE TABLE feed_key (
    feed TEXT COLLATE "C" PRIMARY KEY,
    fields TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL
);

CREATE TABLE payer_seen (
    payer_id TEXT COLLATE "C" NOT NULL,
    organization TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    resource_id TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    at TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (payer_id, organization)
);

CREATE OR REPLACE FUNCTION write_keeps_to_the_table() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.key <> old.key THEN
        RAISE EXCEPTION 'a write keeps its key' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF old.resource_id IS NOT NULL AND new.resource_id IS DISTINCT FROM old.resource_id AND NOT (
        new.resource_id IS NULL AND old.state IN ('CONFIRMED', 'REFUSED') AND new.state = 'PENDING' AND EXISTS (
            SELECT 1 FROM foreign_resource AS gone
            WHERE gone.resource_type = old.resource_type AND gone.lane = old.lane AND gone.resource_id = old.resource_id
        )
    ) THEN
        RAISE EXCEPTION 'a write keeps its resource' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF old.resource_type = 'PaymentNotice' AND old.state = 'CONFIRMED' AND new.state <> old.state AND new.resource_id IS NOT NULL THEN
        RAISE EXCEPTION 'a payment that Canvas holds is not sent again' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN new;
END $$;
