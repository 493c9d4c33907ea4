-- Schema 7 in SQLite, applied after `schema_6.sql`: to a new journal at once, to one of schema 5 or 6 when it is opened.

-- Whether the files of a feed in a run hold changes only, so that a row that is not in them is not missing.
ALTER TABLE run_feed ADD COLUMN is_change INTEGER NOT NULL DEFAULT 0;

-- The X12 interchanges among them, as a JSON list of identity and SHA-256, so that none is loaded in place of a later one.
ALTER TABLE run_feed ADD COLUMN interchanges TEXT NOT NULL DEFAULT '[]';
