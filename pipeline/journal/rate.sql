-- One rate for all workers (cluster/shared_rate.py). A database, or a schema of one, belongs to one Canvas, so there is one target.

-- What Canvas and the configuration ask for: written rarely, and durably.
CREATE TABLE IF NOT EXISTS target (
    id            SMALLINT PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    rate_per_s    DOUBLE PRECISION NOT NULL CHECK (rate_per_s > 0),  -- of the run that began last
    blocked_until TIMESTAMPTZ NOT NULL DEFAULT now(),  -- no worker sends before this time, as Canvas asked
    share         DOUBLE PRECISION NOT NULL DEFAULT 1 CHECK (share > 0 AND share <= 1),  -- of the rate, at `share_at`; it grows with time
    share_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    cut_at        TIMESTAMPTZ NOT NULL DEFAULT '1970-01-01'  -- when the share was last halved
) WITH (fillfactor = 10);

-- The last frame: half a second of slots, and how many of them each worker has. UNLOGGED: no commit waits for the disk, and a
-- crash (also of one server process, or a failover) empties the table, never restores an older row. A row that is missing, or
-- of an earlier start of the server, means: the next slot comes after all that can have been handed out.
CREATE UNLOGGED TABLE IF NOT EXISTS frame (
    id         SMALLINT PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    number     BIGINT NOT NULL DEFAULT 0,
    first_at   TIMESTAMPTZ NOT NULL DEFAULT '-infinity',  -- its first slot
    interval_s DOUBLE PRECISION NOT NULL DEFAULT 0,  -- from one slot to the next
    tat        TIMESTAMPTZ NOT NULL DEFAULT '-infinity',  -- theoretical arrival time: the first instant that belongs to no frame yet
    holders    TEXT[] NOT NULL DEFAULT '{}',
    counts     INTEGER[] NOT NULL DEFAULT '{}',  -- slots of each holder
    cut_at     TIMESTAMPTZ NOT NULL DEFAULT '-infinity',  -- the target's when it was made: after another cut it is void
    started_at TIMESTAMPTZ NOT NULL DEFAULT '-infinity'  -- of the server that made it
) WITH (fillfactor = 10);

-- Nothing was handed out before the tables were there.
INSERT INTO frame (tat, started_at) VALUES (now(), pg_postmaster_start_time()) ON CONFLICT (id) DO NOTHING;

-- The workers: how many slots each could use in a frame, and how exactly it knows the database's clock. The least exact of those
-- that share a frame decides how far apart its slots are.
CREATE UNLOGGED TABLE IF NOT EXISTS taker (
    holder   TEXT PRIMARY KEY,
    taken_at TIMESTAMPTZ NOT NULL,  -- when it last asked
    width_s  DOUBLE PRECISION NOT NULL,
    asked_in BIGINT NOT NULL DEFAULT -1,  -- the number of the frame then: a worker gets its slots of a frame once
    wanted   INTEGER NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
