-- Schema 8 in PostgreSQL, applied after `schema_7_postgres.sql`. What the database refuses stays the same; a row costs
-- it less.

-- The audit log. The lines that a transaction enters for a run are one row. The hash of its last line depends on all of
-- them, so that it alone is kept; rows that were entered before have the hash of each line.
CREATE TABLE trail_group (
    rowid BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    part INTEGER NOT NULL,
    number BIGINT NOT NULL,                         -- of its first line
    last BIGINT NOT NULL CHECK (last >= number),    -- of its last line
    run_id TEXT COLLATE "C" NOT NULL,
    lines JSON NOT NULL,                            -- a list for each line, in the order of the view's columns
    UNIQUE (part, number)
) WITH (toast_tuple_target = 128);                  -- the lines are compressed in small groups, too

INSERT INTO trail_group (part, number, last, run_id, lines)
SELECT part, min(number), max(number), run_id, json_agg(json_build_array(
    at, event, key, attempt, latency_ms, http_status, correlation_id, verdict, resource_id, detail, who, hash) ORDER BY rowid)
FROM (
    SELECT *, count(*) FILTER (WHERE is_first) OVER (ORDER BY rowid) AS place
    FROM (
        SELECT *, (part, run_id) IS DISTINCT FROM (lag(part) OVER lines, lag(run_id) OVER lines) OR row_number() OVER lines % 256 = 1 AS is_first
        FROM trail WINDOW lines AS (ORDER BY rowid)
    ) AS line
) AS placed
GROUP BY place, part, run_id ORDER BY place;

DROP TABLE trail;

CREATE INDEX trail_group_run ON trail_group (run_id);

CREATE TRIGGER trail_is_append_only BEFORE UPDATE OR DELETE ON trail_group
FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER trail_stays_whole BEFORE TRUNCATE ON trail_group
FOR EACH STATEMENT EXECUTE FUNCTION never();

-- Its lines, in the order of `rowid`; a condition on `in_group` selects groups before their lines are unpacked.
CREATE VIEW trail AS
SELECT
    trail_group.rowid AS in_group, (trail_group.rowid << 20) + place AS rowid, number + place - 1 AS number, (line ->> 0) COLLATE "C" AS at, run_id,
    (line ->> 1) COLLATE "C" AS event, (line ->> 2) COLLATE "C" AS key, CAST(line ->> 3 AS INTEGER) AS attempt,
    CAST(line ->> 4 AS DOUBLE PRECISION) AS latency_ms, CAST(line ->> 5 AS INTEGER) AS http_status,
    (line ->> 6) COLLATE "C" AS correlation_id, (line ->> 7) COLLATE "C" AS verdict, (line ->> 8) COLLATE "C" AS resource_id,
    (line ->> 9) COLLATE "C" AS detail, (line ->> 10) COLLATE "C" AS who, part, (line ->> 11) COLLATE "C" AS hash
FROM trail_group CROSS JOIN LATERAL jsonb_array_elements(CAST(lines AS jsonb)) WITH ORDINALITY AS element (line, place);

CREATE TRIGGER trail_is_append_only INSTEAD OF UPDATE OR DELETE ON trail
FOR EACH ROW EXECUTE FUNCTION never();

-- Guards run after the change, so that they lock nothing, and only where the change is not plainly allowed.
ALTER TABLE write DROP CONSTRAINT write_run_id_fkey;

DROP TRIGGER write_starts_pending ON write;
CREATE TRIGGER write_starts_pending AFTER INSERT ON write FOR EACH ROW
WHEN (NOT (new.state = 'PENDING' OR (new.state = 'IN_FLIGHT' AND new.attempts = 1 AND new.resource_id IS NULL)))
EXECUTE FUNCTION write_starts_pending();

DROP TRIGGER write_keeps_to_the_table ON write;
CREATE TRIGGER write_keeps_to_the_table AFTER UPDATE ON write FOR EACH ROW
WHEN (new.key <> old.key OR new.resource_id IS DISTINCT FROM old.resource_id AND old.resource_id IS NOT NULL OR old.state = 'CONFIRMED')
EXECUTE FUNCTION write_keeps_to_the_table();

DROP TRIGGER write_transition ON write;
CREATE TRIGGER write_transition AFTER UPDATE OF state ON write FOR EACH ROW
WHEN (NOT (
    (old.state = 'PENDING' AND new.state = 'IN_FLIGHT' AND new.resource_id IS NULL)
    OR (old.state = 'IN_FLIGHT' AND new.state = 'CONFIRMED')
))
EXECUTE FUNCTION write_transition();

-- What is unsettled. Equal payments of a patient never are at the same time; coverages have no amount, so that they
-- are all different.
DROP INDEX write_payment_unsettled;
DROP INDEX write_in_flight;
DROP INDEX write_in_doubt;
CREATE UNIQUE INDEX write_unsettled ON write (lane, amount_cents, claim) WHERE state IN ('IN_FLIGHT', 'IN_DOUBT');

-- Payments that are not confirmed are found by `write_unsettled` and `write_owed`.
DROP INDEX write_payment;
CREATE INDEX write_payment ON write (lane) WHERE resource_type = 'PaymentNotice' AND state = 'CONFIRMED';

-- The shared rate, which `rate.sql` explains. A new journal has no tables of it yet.

ALTER TABLE IF EXISTS target DROP COLUMN IF EXISTS tat, DROP COLUMN IF EXISTS started_at;

CREATE UNLOGGED TABLE IF NOT EXISTS frame (
    id         SMALLINT PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    number     BIGINT NOT NULL DEFAULT 0,
    first_at   TIMESTAMPTZ NOT NULL DEFAULT '-infinity',
    interval_s DOUBLE PRECISION NOT NULL DEFAULT 0,
    tat        TIMESTAMPTZ NOT NULL DEFAULT '-infinity',
    holders    TEXT[] NOT NULL DEFAULT '{}',
    counts     INTEGER[] NOT NULL DEFAULT '{}',
    cut_at     TIMESTAMPTZ NOT NULL DEFAULT '-infinity',
    started_at TIMESTAMPTZ NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 10);

ALTER TABLE IF EXISTS taker
    ADD COLUMN IF NOT EXISTS asked_in BIGINT NOT NULL DEFAULT -1,
    ADD COLUMN IF NOT EXISTS wanted INTEGER NOT NULL DEFAULT 0;

ALTER TABLE IF EXISTS taker SET UNLOGGED;
