-- The statements of the journal. Each has a name and says what it is for.

-- name: open_again
-- A row that was refused in an earlier run is tried anew.
UPDATE write SET state = 'PENDING' WHERE key = :key AND state = 'REFUSED';

-- name: enter
-- A row is entered, or its content brought up to date while nothing of it is under way.
INSERT INTO write (key, state, run_id, feed, resource_type, lane, amount_cents, claim, likeness, fingerprint)
VALUES (:key, 'PENDING', :run_id, :feed, :resource_type, :lane, :amount_cents, :claim, :likeness, :fingerprint)
ON CONFLICT (key) DO UPDATE SET
    run_id = excluded.run_id,
    feed = excluded.feed,
    lane = excluded.lane,
    amount_cents = excluded.amount_cents,
    claim = excluded.claim,
    likeness = excluded.likeness,
    fingerprint = excluded.fingerprint,
    attempts = CASE WHEN write.run_id = excluded.run_id THEN write.attempts ELSE 0 END
WHERE write.state = 'PENDING';

-- name: claim
-- The claim: durable before the first byte of the attempt. `since`, and how far the clocks were apart then,
-- are those of the first send whose fate was ever unknown, else of this one; `until` stays that of the last
-- send until this one has an answer, for it may yet be taken back.
UPDATE write SET
    state = 'IN_FLIGHT', attempts = attempts + 1, until = CASE WHEN resent THEN until END,
    since = CASE WHEN resent THEN since ELSE :since END, ahead_s = CASE WHEN resent THEN ahead_s ELSE :ahead_s END,
    rule = '', message = '', http_status = NULL, correlation_id = '', sent_at = :at, settled_at = NULL
WHERE key = :key AND state = 'PENDING';

-- name: release
-- A claim that was never handed to a socket goes back, in the same live process only.
UPDATE write SET state = 'PENDING', attempts = attempts - 1, sent_at = NULL WHERE key = :key AND state = 'IN_FLIGHT';

-- name: id_is_claimed
-- Whether another row already has this resource, or it is known not to be ours.
SELECT 1 FROM write WHERE resource_type = :resource_type AND resource_id = :resource_id
UNION ALL
SELECT 1 FROM foreign_resource WHERE resource_type = :resource_type AND lane = :lane AND resource_id = :resource_id;

-- name: settle
-- What an answer came to.
UPDATE write SET
    state = :state, resource_id = :resource_id, rule = :rule, message = :message,
    since = CASE WHEN resent THEN since ELSE coalesce(:since, since) END, until = :until,
    http_status = :http_status, correlation_id = :correlation_id, sent_at = :sent_at, settled_at = :settled_at
WHERE key = :key AND state = 'IN_FLIGHT';

-- name: state
SELECT state FROM write WHERE key = :key;

-- name: attempts
-- The number of the attempt that is under way.
SELECT attempts FROM write WHERE key = :key;

-- name: suspect
-- The journal was lost, and Canvas holds one like it: a person decides.
UPDATE write SET state = 'IN_DOUBT', rule = :rule, message = :message, settled_at = :at
WHERE key = :key AND state = 'PENDING';

-- name: found
-- A search shows it, or a person names it.
UPDATE write SET state = 'CONFIRMED', resource_id = :resource_id, rule = :rule, message = :message, settled_at = :at
WHERE key = :key AND state = 'IN_DOUBT';

-- name: absent
-- It is not there: it may be sent again.
UPDATE write SET state = 'PENDING', resent = resent + 1, rule = :rule, message = :message
WHERE key = :key AND state = 'IN_DOUBT';

-- name: unclear
-- It stays in doubt, and this is why.
UPDATE write SET rule = :rule, message = :message WHERE key = :key AND state = 'IN_DOUBT';

-- name: abandoned
UPDATE write SET state = 'ABANDONED', rule = :rule, message = :message, settled_at = :at
WHERE key = :key AND state = 'IN_DOUBT';

-- name: reopened
-- In doubt again, for a person to decide on: what was given up, or is still to be sent again.
UPDATE write SET state = 'IN_DOUBT' WHERE key = :key AND (state = 'ABANDONED' OR (state = 'PENDING' AND resent > 0));

-- name: left_in_flight
-- Whatever is in flight when a run starts was left so by a crash.
SELECT key, sent_at, ahead_s FROM write WHERE state = 'IN_FLIGHT';

-- name: doubt_in_flight
-- Its fate is unknown.
UPDATE write SET
    state = 'IN_DOUBT', rule = 'canvas|no-answer', settled_at = :at, until = :until,
    message = 'the run that sent it ended before the answer came'
WHERE key = :key AND state = 'IN_FLIGHT';

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

-- name: doubt_count
-- The writes in doubt, and those of other runs that a search showed to be absent and are not there yet.
SELECT
    (SELECT count(*) FROM write WHERE state = 'IN_DOUBT')
    + (SELECT count(*) FROM write WHERE state = 'IN_FLIGHT')
    + (SELECT count(*) FROM write WHERE state = 'PENDING' AND resent > 0 AND run_id <> :run_id);

-- name: doubts
-- The writes in doubt, and those that a search showed to be absent and are not there yet.
SELECT * FROM doubt WHERE state = 'IN_DOUBT'
UNION ALL
SELECT * FROM doubt WHERE state = 'PENDING' AND resent > 0
ORDER BY state, run_id, key;

-- name: doubts_of
SELECT * FROM doubt WHERE key IN (SELECT value FROM json_each(:keys)) ORDER BY run_id, key;

-- name: claimed
-- Which of these resources belong to a row, or were there before ours.
SELECT resource_id FROM write WHERE resource_type = :resource_type AND resource_id IN (SELECT value FROM json_each(:ids))
UNION
SELECT resource_id FROM foreign_resource WHERE resource_type = :resource_type AND lane = :lane;

-- name: note_foreign
INSERT INTO foreign_resource (resource_type, resource_id, lane, run_id) VALUES (:resource_type, :resource_id, :lane, :run_id)
ON CONFLICT DO NOTHING;

-- name: append
-- One line of the trail.
INSERT INTO trail (number, at, run_id, event, key, attempt, latency_ms, http_status, correlation_id, verdict, resource_id, detail, who, hash)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: head
-- The last line of the trail.
SELECT number, hash FROM trail ORDER BY number DESC LIMIT 1;

-- name: trail
SELECT number, at, run_id, event, key, attempt, latency_ms, http_status, correlation_id, verdict, resource_id, detail, who, hash
FROM trail WHERE number > :after AND (:key IS NULL OR key = :key) ORDER BY number LIMIT :count;

-- name: last_line
-- When a run was last seen alive.
SELECT at FROM trail ORDER BY number DESC LIMIT 1;

-- name: length_after
-- How long the trail was when a run was reported: just before its end was entered.
SELECT coalesce(max(number), 0) FROM trail WHERE run_id = :run_id AND event <> 'ended';

-- name: exchanges
-- All requests of a run, in the order of their grants.
SELECT event, attempt, at, latency_ms, http_status FROM trail
WHERE run_id = :run_id AND latency_ms IS NOT NULL ORDER BY at, number;

-- name: settled
-- How many doubts a run settled, by what came of them.
SELECT event, count(*) FROM trail WHERE run_id = :run_id AND event IN ('found', 'absent', 'suspected') GROUP BY event;

-- name: confirmed
-- What Canvas holds by our books, patient by patient.
SELECT key, feed, resource_type, lane, resource_id, amount_cents, claim, run_id, fingerprint FROM write
WHERE state = 'CONFIRMED' AND (:since IS NULL OR settled_at >= :since) ORDER BY resource_type, lane, key;

-- name: census
-- What is held: by state, the writes, their cents, and the oldest and the youngest.
SELECT state, resource_type, count(*), coalesce(sum(amount_cents), 0), min(coalesce(settled_at, sent_at)), max(coalesce(settled_at, sent_at))
FROM write GROUP BY state, resource_type ORDER BY state, resource_type;

-- name: start_run
INSERT INTO run (run_id, command, started_at) VALUES (:run_id, :command, :at);

-- name: finish_run
UPDATE run SET finished_at = :at, exit_code = :exit_code, failure = :failure WHERE run_id = :run_id;

-- name: run
SELECT run_id, command, started_at, finished_at, exit_code, failure FROM run WHERE run_id = :run_id;

-- name: last_run
SELECT run_id, command, started_at, finished_at, exit_code, failure FROM run
WHERE command IN ('plan', 'run') ORDER BY run_id DESC LIMIT 1;

-- name: run_ids
SELECT run_id FROM run;

-- name: enter_lost_run
INSERT INTO run (run_id, command, started_at) VALUES (:run_id, 'lost', '') ON CONFLICT DO NOTHING;

-- name: last_entered
-- The run that was entered last, whatever its id says.
SELECT run_id FROM run ORDER BY rowid DESC LIMIT 1;

-- name: enter_feed
INSERT INTO run_feed (run_id, feed, rows_read, cents_read) VALUES (:run_id, :feed, :rows_read, :cents_read)
ON CONFLICT DO NOTHING;

-- name: last_feed
-- What the feed's files held in the last run that passed its guards.
SELECT rows_read, cents_read FROM run_feed WHERE feed = :feed ORDER BY run_id DESC LIMIT 1;

-- name: set_meta
INSERT INTO meta (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: meta
SELECT name, value FROM meta;
