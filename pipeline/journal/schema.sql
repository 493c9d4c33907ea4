-- The journal of one Canvas, in SQLite; `schema_postgres.sql` says the same. The database itself refuses a repost, a second claim, an id claimed twice,
-- and an equal payment that is sent while its twin is unsettled (docs/guarantees.md, "Journal").

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- Filled from journal/states.py.
CREATE TABLE transition (
    resource_type TEXT NOT NULL,
    old TEXT NOT NULL,
    new TEXT NOT NULL,
    PRIMARY KEY (resource_type, old, new)
) STRICT;

CREATE TABLE run (
    run_id TEXT PRIMARY KEY,
    command TEXT NOT NULL,                          -- plan, run, review; lost: known by its traces only
    started_at TEXT NOT NULL,
    finished_at TEXT,
    exit_code INTEGER,
    failure TEXT NOT NULL DEFAULT ''
) STRICT;

-- What each feed's files held, for the guard against a file that is far smaller or larger.
CREATE TABLE run_feed (
    run_id TEXT NOT NULL REFERENCES run (run_id),
    feed TEXT NOT NULL,
    rows_read INTEGER NOT NULL,
    cents_read INTEGER NOT NULL,
    PRIMARY KEY (run_id, feed)
) STRICT;

-- One line a row that was ever to be sent, known by its key.
CREATE TABLE write (
    key TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    run_id TEXT NOT NULL REFERENCES run (run_id),   -- the run whose plan was sent last
    feed TEXT NOT NULL,
    interaction TEXT NOT NULL DEFAULT 'create',     -- what was sent last, or is to be: create or update
    resource_type TEXT NOT NULL,
    lane TEXT NOT NULL,                             -- the Patient key
    amount_cents INTEGER,
    claim TEXT NOT NULL,
    likeness TEXT NOT NULL,                         -- how a search recognises a Coverage
    fingerprint TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,            -- sends in that run
    resent INTEGER NOT NULL DEFAULT 0,              -- times a search showed nothing and it was sent again
    since TEXT,                                     -- the server's clock at its first send, at the earliest
    until TEXT,                                     -- and at its last one, at the latest
    ahead_s REAL,                                   -- how far that clock was ahead of ours at the first
    resource_id TEXT,
    rank INTEGER,                                   -- the `order` of a Coverage that is active
    held TEXT,                                      -- the fingerprint that Canvas was last confirmed to hold,
    held_run TEXT,                                  -- the run whose plan has that content,
    held_at TEXT,                                   -- when that was, by the server's clock,
    held_rank INTEGER,                              -- and the rank that it had,
    displaced INTEGER NOT NULL DEFAULT 0,           -- which another write of ours has moved, or may have
    rule TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    http_status INTEGER,
    correlation_id TEXT NOT NULL DEFAULT '',
    sent_at TEXT,
    settled_at TEXT,
    part INTEGER NOT NULL DEFAULT 0,                -- of the sending that claimed it last
    orphaned INTEGER NOT NULL DEFAULT 0,            -- its sender may be alive still: never here, where one holds the file
    CHECK (state <> 'CONFIRMED' OR resource_id IS NOT NULL)
) STRICT;

CREATE UNIQUE INDEX write_resource ON write (resource_type, resource_id) WHERE resource_id IS NOT NULL;

CREATE UNIQUE INDEX write_payment_unsettled ON write (lane, amount_cents, claim)
WHERE resource_type = 'PaymentNotice' AND state IN ('IN_FLIGHT', 'IN_DOUBT');

-- One for each state: SQLite takes a partial index only where a query repeats its very condition.
CREATE INDEX write_in_flight ON write (lane) WHERE state = 'IN_FLIGHT';
CREATE INDEX write_in_doubt ON write (lane) WHERE state = 'IN_DOUBT';

-- What a patient's coverages are, for the order in which they are written.
CREATE INDEX write_coverage ON write (lane) WHERE resource_type = 'Coverage';

CREATE INDEX write_displaced ON write (feed) WHERE displaced = 1;

CREATE INDEX write_owed ON write (resent) WHERE state = 'PENDING' AND resent > 0;

-- A write with all that is needed to settle it when it is in doubt.
CREATE VIEW doubt AS
SELECT
    state, key, feed, resource_type, lane, fingerprint, amount_cents, claim, likeness, run_id,
    attempts, resent, since, until, ahead_s, rule, message,
    interaction, coalesce(resource_id, '') AS resource_id, rank, coalesce(held, '') AS held,
    coalesce(held_run, '') AS held_run, held_at, part, orphaned
FROM write;

-- PENDING, or claimed at once.
CREATE TRIGGER write_starts_pending BEFORE INSERT ON write
WHEN new.state <> 'PENDING' AND NOT (
    new.state = 'IN_FLIGHT' AND new.attempts = 1 AND (new.resource_id IS NULL OR new.interaction <> 'create')
)
BEGIN
    SELECT raise(ABORT, 'a write starts PENDING');
END;

CREATE TRIGGER write_transition BEFORE UPDATE OF state ON write
WHEN NOT EXISTS (
    SELECT 1 FROM transition
    WHERE resource_type = old.resource_type AND old = old.state AND new = new.state
)
BEGIN
    SELECT raise(ABORT, 'no such transition');
END;

CREATE TRIGGER write_keeps_its_resource BEFORE UPDATE OF resource_id ON write
WHEN old.resource_id IS NOT NULL AND new.resource_id IS NOT old.resource_id
BEGIN
    SELECT raise(ABORT, 'a write keeps its resource');
END;

CREATE TRIGGER write_is_created_once BEFORE UPDATE OF state ON write
WHEN new.state = 'IN_FLIGHT' AND new.resource_id IS NOT NULL AND new.interaction = 'create'
BEGIN
    SELECT raise(ABORT, 'what has a resource is not created again');
END;

CREATE TRIGGER write_stays BEFORE DELETE ON write
BEGIN
    SELECT raise(ABORT, 'a write is never deleted');
END;

-- Resources that Canvas held before a patient's first send, if the server's clock does not show it, and those that a
-- person declared to be another user's. Such a resource is never taken for a write of ours.
CREATE TABLE foreign_resource (
    resource_type TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    lane TEXT NOT NULL,
    run_id TEXT NOT NULL,
    PRIMARY KEY (resource_type, lane, resource_id)
) STRICT, WITHOUT ROWID;

-- Every claim, request, answer and decision, append only, each line chained to the one before by its
-- hash. Never a body, never a URL.
CREATE TABLE trail (
    number INTEGER PRIMARY KEY,                     -- 1, 2, 3, ... without a gap
    at TEXT NOT NULL,                               -- of a request: the rate limiter's grant
    run_id TEXT NOT NULL,
    event TEXT NOT NULL,                            -- journal/audit_log.py says which there are
    key TEXT NOT NULL,                              -- of the write; else ''
    attempt INTEGER NOT NULL,
    latency_ms REAL,
    http_status INTEGER,
    correlation_id TEXT NOT NULL,
    verdict TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    detail TEXT NOT NULL,                           -- the problem below HTTP, or the evidence
    who TEXT NOT NULL,                              -- '': the machine
    part INTEGER NOT NULL DEFAULT 0 CHECK (part = 0),   -- here a run is sent by one process
    hash TEXT NOT NULL                              -- SHA-256 over the line and the hash before it
) STRICT;

CREATE INDEX trail_run ON trail (run_id);

CREATE TRIGGER trail_is_append_only_update BEFORE UPDATE ON trail
BEGIN
    SELECT raise(ABORT, 'the trail is never changed');
END;

CREATE TRIGGER trail_is_append_only_delete BEFORE DELETE ON trail
BEGIN
    SELECT raise(ABORT, 'nothing of the trail is deleted');
END;
