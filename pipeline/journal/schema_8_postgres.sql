-- Schema 8 in PostgreSQL, applied after `schema_7_postgres.sql`; `rate.sql` explains it. A new journal has no rate tables yet.

ALTER TABLE IF EXISTS target DROP COLUMN IF EXISTS tat, DROP COLUMN IF EXISTS started_at;

CREATE UNLOGGED TABLE frame (
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
