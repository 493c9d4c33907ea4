-- The journal of one Canvas. SQLite itself refuses a repost, a second claim, an id claimed twice,
-- and an equal payment that is sent while its twin is unsettled (reliability.md, "Journal").

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- Filled from journal/states.py.
CREATE TABLE transition (
    old TEXT NOT NULL,
    new TEXT NOT NULL,
    PRIMARY KEY (old, new)
) STRICT;

CREATE TABLE run (
    run_id TEXT PRIMARY KEY,
    command TEXT NOT NULL,
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
    key TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    run_id TEXT NOT NULL REFERENCES run (run_id),   -- the run that sent it last
    feed TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    lane TEXT NOT NULL,                             -- the Patient key
    amount_cents INTEGER,
    claim TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,            -- sends in that run
    resource_id TEXT,
    rule TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    http_status INTEGER,
    correlation_id TEXT NOT NULL DEFAULT '',
    sent_at TEXT,
    settled_at TEXT
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX write_resource ON write (resource_type, resource_id) WHERE resource_id IS NOT NULL;

CREATE UNIQUE INDEX write_payment_unsettled ON write (lane, amount_cents, claim)
WHERE resource_type = 'PaymentNotice' AND state IN ('IN_FLIGHT', 'IN_DOUBT');

CREATE INDEX write_open ON write (state, lane) WHERE state IN ('IN_FLIGHT', 'IN_DOUBT');

CREATE TRIGGER write_starts_pending BEFORE INSERT ON write
WHEN new.state <> 'PENDING'
BEGIN
    SELECT raise(ABORT, 'a write starts PENDING');
END;

CREATE TRIGGER write_transition BEFORE UPDATE OF state ON write
WHEN NOT EXISTS (SELECT 1 FROM transition WHERE old = old.state AND new = new.state)
BEGIN
    SELECT raise(ABORT, 'no such transition');
END;

CREATE TRIGGER write_confirmed_has_id BEFORE UPDATE OF state ON write
WHEN new.state = 'CONFIRMED' AND new.resource_id IS NULL
BEGIN
    SELECT raise(ABORT, 'a confirmed write has an id');
END;

CREATE TRIGGER write_stays BEFORE DELETE ON write
BEGIN
    SELECT raise(ABORT, 'a write is never deleted');
END;

-- Every request, append only: what was sent when, and what came back. Never a body, never a URL.
CREATE TABLE exchange (
    number INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,
    purpose TEXT NOT NULL,                          -- write, read, search, token
    key TEXT NOT NULL,                              -- of the write; else ''
    attempt INTEGER NOT NULL,
    sent_at TEXT NOT NULL,                          -- the instant of the rate limiter's grant
    latency_ms REAL NOT NULL,
    http_status INTEGER,
    correlation_id TEXT NOT NULL,
    verdict TEXT NOT NULL,
    problem TEXT NOT NULL
) STRICT;

CREATE INDEX exchange_run ON exchange (run_id);

CREATE TRIGGER exchange_is_append_only_update BEFORE UPDATE ON exchange
BEGIN
    SELECT raise(ABORT, 'an exchange is never changed');
END;

CREATE TRIGGER exchange_is_append_only_delete BEFORE DELETE ON exchange
BEGIN
    SELECT raise(ABORT, 'an exchange is never deleted');
END;
