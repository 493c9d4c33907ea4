-- Schema 7 in PostgreSQL, applied after `schema_6_postgres.sql`; `schema_7.sql` explains it.

ALTER TABLE run_feed ADD COLUMN is_change INTEGER NOT NULL DEFAULT 0;

ALTER TABLE run_feed ADD COLUMN interchanges TEXT COLLATE "C" NOT NULL DEFAULT '[]';
