-- The statements of the journal. Each has a name and says what it is for.

-- name: open_again
-- A row that was refused or given up in an earlier run is tried anew.
UPDATE write SET state = 'PENDING' WHERE key = :key AND state IN ('REFUSED', 'ABANDONED');

-- name: enter
-- A row is entered, or its content brought up to date while nothing of it is under way.
INSERT INTO write (key, state, run_id, feed, resource_type, lane, amount_cents, claim, fingerprint)
VALUES (:key, 'PENDING', :run_id, :feed, :resource_type, :lane, :amount_cents, :claim, :fingerprint)
ON CONFLICT (key) DO UPDATE SET
    run_id = excluded.run_id,
    feed = excluded.feed,
    lane = excluded.lane,
    amount_cents = excluded.amount_cents,
    claim = excluded.claim,
    fingerprint = excluded.fingerprint,
    attempts = CASE WHEN write.run_id = excluded.run_id THEN write.attempts ELSE 0 END
WHERE write.state = 'PENDING';

-- name: claim
-- The claim: durable before the first byte of the attempt.
UPDATE write SET
    state = 'IN_FLIGHT', attempts = attempts + 1,
    rule = '', message = '', http_status = NULL, correlation_id = '', sent_at = NULL, settled_at = NULL
WHERE key = :key AND state = 'PENDING';

-- name: release
-- A claim that was never handed to a socket goes back, in the same live process only.
UPDATE write SET state = 'PENDING', attempts = attempts - 1 WHERE key = :key AND state = 'IN_FLIGHT';

-- name: id_is_claimed
-- Whether another row already has this resource.
SELECT 1 FROM write WHERE resource_type = :resource_type AND resource_id = :resource_id;

-- name: settle
-- What an answer came to.
UPDATE write SET
    state = :state, resource_id = :resource_id, rule = :rule, message = :message,
    http_status = :http_status, correlation_id = :correlation_id, sent_at = :sent_at, settled_at = :settled_at
WHERE key = :key AND state = 'IN_FLIGHT';

-- name: give_up
-- Out of attempts: reported as pending, taken up by the next run.
UPDATE write SET state = 'ABANDONED' WHERE key = :key AND state = 'PENDING';

-- name: attempts
-- The number of the attempt that is under way.
SELECT attempts FROM write WHERE key = :key;

-- name: record
-- One request, whatever it was for.
INSERT INTO exchange (run_id, purpose, key, attempt, sent_at, latency_ms, http_status, correlation_id, verdict, problem)
VALUES (:run_id, :purpose, :key, :attempt, :sent_at, :latency_ms, :http_status, :correlation_id, :verdict, :problem);

-- name: doubt_in_flight
-- Whatever is in flight when a run starts was left so by a crash: its fate is unknown.
UPDATE write SET
    state = 'IN_DOUBT', rule = 'canvas|no-answer', settled_at = :at,
    message = 'the run that sent it ended before the answer came'
WHERE state = 'IN_FLIGHT';

-- name: known
-- What is held of these keys.
SELECT key, state, fingerprint, coalesce(resource_id, '') FROM write WHERE key IN (SELECT value FROM json_each(:keys));

-- name: writes
-- What the report shows of these keys.
SELECT key, state, run_id, attempts, coalesce(resource_id, ''), rule, message, http_status, correlation_id, sent_at, settled_at
FROM write WHERE key IN (SELECT value FROM json_each(:keys));

-- name: shut_lanes
-- The patients with a write in doubt.
SELECT DISTINCT lane FROM write WHERE state = 'IN_DOUBT';

-- name: doubts
SELECT count(*) FROM write WHERE state IN ('IN_DOUBT', 'IN_FLIGHT');

-- name: exchanges
-- All requests of a run, in the order of their grants.
SELECT purpose, attempt, sent_at, latency_ms, http_status FROM exchange WHERE run_id = :run_id ORDER BY sent_at, number;

-- name: start_run
INSERT INTO run (run_id, command, started_at) VALUES (:run_id, :command, :at);

-- name: finish_run
UPDATE run SET finished_at = :at, exit_code = :exit_code, failure = :failure WHERE run_id = :run_id;

-- name: run
SELECT run_id, command, started_at, finished_at, exit_code, failure FROM run WHERE run_id = :run_id;

-- name: last_run
SELECT run_id, command, started_at, finished_at, exit_code, failure FROM run ORDER BY run_id DESC LIMIT 1;

-- name: enter_feed
INSERT INTO run_feed (run_id, feed, rows_read, cents_read) VALUES (:run_id, :feed, :rows_read, :cents_read)
ON CONFLICT DO NOTHING;

-- name: last_feed
-- What the feed's files held in the last run that passed its guards.
SELECT rows_read, cents_read FROM run_feed WHERE feed = :feed ORDER BY run_id DESC LIMIT 1;
