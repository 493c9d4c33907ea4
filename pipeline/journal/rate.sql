-- One rate for all workers (cluster/slots.py). A database, or a schema of one, belongs to one Canvas, so there is one target.

CREATE TABLE IF NOT EXISTS target (
    id            SMALLINT PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    rate_per_s    DOUBLE PRECISION NOT NULL CHECK (rate_per_s > 0),  -- of the run that began last
    tat           TIMESTAMPTZ NOT NULL DEFAULT now(),  -- theoretical arrival time: the first instant that is not handed out yet
    blocked_until TIMESTAMPTZ NOT NULL DEFAULT now(),  -- no worker sends before this time, as Canvas asked
    share         DOUBLE PRECISION NOT NULL DEFAULT 1 CHECK (share > 0 AND share <= 1),  -- of the rate, at `share_at`; it grows with time
    share_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    cut_at        TIMESTAMPTZ NOT NULL DEFAULT '1970-01-01',  -- when the share was last halved
    started_at    TIMESTAMPTZ NOT NULL DEFAULT pg_postmaster_start_time()  -- of the server that handed out the last slot
) WITH (fillfactor = 10);

-- The workers that took slots recently share the rate. The one with the least exact reading of the database's clock
-- decides how far apart the slots are.
CREATE TABLE IF NOT EXISTS taker (
    holder   TEXT PRIMARY KEY,
    taken_at TIMESTAMPTZ NOT NULL,
    width_s  DOUBLE PRECISION NOT NULL
) WITH (fillfactor = 50);
