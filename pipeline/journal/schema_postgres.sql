-- The journal of one Canvas, in PostgreSQL; `schema.sql` says the same to SQLite. Texts are compared byte
-- by byte; `rowid` is the order in which lines were entered, as SQLite has it by itself.

CREATE TABLE meta (
    name TEXT COLLATE "C" PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);

CREATE TABLE transition (
    resource_type TEXT COLLATE "C" NOT NULL,
    old TEXT COLLATE "C" NOT NULL,
    new TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (resource_type, old, new)
);

CREATE TABLE run (
    rowid BIGINT GENERATED ALWAYS AS IDENTITY UNIQUE,
    run_id TEXT COLLATE "C" PRIMARY KEY,
    command TEXT COLLATE "C" NOT NULL,
    started_at TEXT COLLATE "C" NOT NULL,
    finished_at TEXT COLLATE "C",
    exit_code INTEGER,
    failure TEXT COLLATE "C" NOT NULL DEFAULT ''
);

CREATE TABLE run_feed (
    rowid BIGINT GENERATED ALWAYS AS IDENTITY UNIQUE,
    run_id TEXT COLLATE "C" NOT NULL REFERENCES run (run_id),
    feed TEXT COLLATE "C" NOT NULL,
    rows_read BIGINT NOT NULL,
    cents_read BIGINT NOT NULL,
    PRIMARY KEY (run_id, feed)
);

CREATE TABLE write (
    key TEXT COLLATE "C" PRIMARY KEY,
    state TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL REFERENCES run (run_id),
    feed TEXT COLLATE "C" NOT NULL,
    interaction TEXT COLLATE "C" NOT NULL DEFAULT 'create',
    resource_type TEXT COLLATE "C" NOT NULL,
    lane TEXT COLLATE "C" NOT NULL,
    amount_cents BIGINT,
    claim TEXT COLLATE "C" NOT NULL,
    likeness TEXT COLLATE "C" NOT NULL,
    fingerprint TEXT COLLATE "C" NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    resent INTEGER NOT NULL DEFAULT 0,
    since TEXT COLLATE "C",
    until TEXT COLLATE "C",
    ahead_s DOUBLE PRECISION,
    resource_id TEXT COLLATE "C",
    rank INTEGER,
    held TEXT COLLATE "C",
    held_run TEXT COLLATE "C",
    held_at TEXT COLLATE "C",
    held_rank INTEGER,
    displaced INTEGER NOT NULL DEFAULT 0,
    rule TEXT COLLATE "C" NOT NULL DEFAULT '',
    message TEXT COLLATE "C" NOT NULL DEFAULT '',
    http_status INTEGER,
    correlation_id TEXT COLLATE "C" NOT NULL DEFAULT '',
    sent_at TEXT COLLATE "C",
    settled_at TEXT COLLATE "C",
    part INTEGER NOT NULL DEFAULT 0,
    orphaned INTEGER NOT NULL DEFAULT 0,
    CHECK (state <> 'CONFIRMED' OR resource_id IS NOT NULL)
) WITH (fillfactor = 80);

CREATE UNIQUE INDEX write_resource ON write (resource_type, resource_id) WHERE resource_id IS NOT NULL;

CREATE UNIQUE INDEX write_payment_unsettled ON write (lane, amount_cents, claim)
WHERE resource_type = 'PaymentNotice' AND state IN ('IN_FLIGHT', 'IN_DOUBT');

CREATE INDEX write_in_flight ON write (lane) WHERE state = 'IN_FLIGHT';
CREATE INDEX write_in_doubt ON write (lane) WHERE state = 'IN_DOUBT';
CREATE INDEX write_coverage ON write (lane) WHERE resource_type = 'Coverage';
CREATE INDEX write_displaced ON write (feed) WHERE displaced = 1;
CREATE INDEX write_owed ON write (resent) WHERE state = 'PENDING' AND resent > 0;

CREATE VIEW doubt AS
SELECT
    state, key, feed, resource_type, lane, fingerprint, amount_cents, claim, likeness, run_id,
    attempts, resent, since, until, ahead_s, rule, message,
    interaction, coalesce(resource_id, '') AS resource_id, rank, coalesce(held, '') AS held,
    coalesce(held_run, '') AS held_run, held_at, part, orphaned
FROM write;

CREATE FUNCTION write_starts_pending() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.state <> 'PENDING' AND NOT (
        new.state = 'IN_FLIGHT' AND new.attempts = 1 AND (new.resource_id IS NULL OR new.interaction <> 'create')
    ) THEN
        RAISE EXCEPTION 'a write starts PENDING' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN new;
END $$;

CREATE TRIGGER write_starts_pending BEFORE INSERT ON write
FOR EACH ROW EXECUTE FUNCTION write_starts_pending();

CREATE FUNCTION write_keeps_to_the_table() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.key <> old.key THEN
        RAISE EXCEPTION 'a write keeps its key' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF old.resource_id IS NOT NULL AND new.resource_id IS DISTINCT FROM old.resource_id THEN
        RAISE EXCEPTION 'a write keeps its resource' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN new;
END $$;

CREATE TRIGGER write_keeps_to_the_table BEFORE UPDATE ON write
FOR EACH ROW EXECUTE FUNCTION write_keeps_to_the_table();

-- Of updates that name the state, as SQLite has it: one that leaves it as it is is a step too.
CREATE FUNCTION write_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM transition
        WHERE resource_type = old.resource_type AND transition.old = old.state AND transition.new = new.state
    ) THEN
        RAISE EXCEPTION 'no such transition' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF new.state = 'IN_FLIGHT' AND new.resource_id IS NOT NULL AND new.interaction = 'create' THEN
        RAISE EXCEPTION 'what has a resource is not created again' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN new;
END $$;

CREATE TRIGGER write_transition BEFORE UPDATE OF state ON write
FOR EACH ROW EXECUTE FUNCTION write_transition();

CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'nothing of % is changed or deleted', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER write_stays BEFORE DELETE ON write
FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER write_stays_whole BEFORE TRUNCATE ON write
FOR EACH STATEMENT EXECUTE FUNCTION never();

CREATE TABLE foreign_resource (
    resource_type TEXT COLLATE "C" NOT NULL,
    resource_id TEXT COLLATE "C" NOT NULL,
    lane TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (resource_type, lane, resource_id)
);

CREATE TABLE trail (
    rowid BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number BIGINT NOT NULL,                         -- 1, 2, 3, ... without a gap in each part
    at TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    event TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    attempt INTEGER NOT NULL,
    latency_ms DOUBLE PRECISION,
    http_status INTEGER,
    correlation_id TEXT COLLATE "C" NOT NULL,
    verdict TEXT COLLATE "C" NOT NULL,
    resource_id TEXT COLLATE "C" NOT NULL,
    detail TEXT COLLATE "C" NOT NULL,
    who TEXT COLLATE "C" NOT NULL,
    part INTEGER NOT NULL,
    hash TEXT COLLATE "C" NOT NULL,
    UNIQUE (part, number)
);

CREATE INDEX trail_run ON trail (run_id);

CREATE TRIGGER trail_is_append_only BEFORE UPDATE OR DELETE ON trail
FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER trail_stays_whole BEFORE TRUNCATE ON trail
FOR EACH STATEMENT EXECUTE FUNCTION never();

-- Who may write, and send: part 0 is the run, the others are parts of its sending (docs/guarantees.md, "Workers").
-- An epoch is never used again.
CREATE TABLE lease (
    part INTEGER PRIMARY KEY,
    epoch BIGINT NOT NULL DEFAULT 0,
    holder TEXT COLLATE "C",
    expires_at TIMESTAMPTZ NOT NULL DEFAULT '-infinity',
    is_stopping BOOLEAN NOT NULL DEFAULT FALSE     -- of part 0: all parts are to come to an end
);
INSERT INTO lease (part) VALUES (0);

-- The lease records: who held a part, from when to when, and the rows sent.
CREATE TABLE stint (
    part INTEGER NOT NULL,
    epoch BIGINT NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL REFERENCES run (run_id),
    holder TEXT COLLATE "C" NOT NULL,
    first_line BIGINT NOT NULL,                     -- its lines of the trail begin after this one
    taken_at TEXT COLLATE "C" NOT NULL,
    ended_at TEXT COLLATE "C",
    ended TEXT COLLATE "C" NOT NULL DEFAULT '',     -- how
    counts TEXT COLLATE "C" NOT NULL DEFAULT '{}',  -- by disposition
    PRIMARY KEY (part, epoch)
);
