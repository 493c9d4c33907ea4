-- The statements of the journal. Each has a name, and a comment if the name does not say what it is for.

-- name: open_again
-- Rows that an earlier run had refused are tried again; confirmed rows are updated.
UPDATE write SET state = 'PENDING'
WHERE key IN (SELECT value FROM json_each(:keys)) AND (state = 'REFUSED' OR (state = 'CONFIRMED' AND :interaction = 'update'));

-- name: enter
-- Enter a row, or update its content while no send of it is open.
INSERT INTO write (key, state, run_id, feed, interaction, resource_type, lane, amount_cents, claim, likeness, fingerprint, rank, end_on, resource_id, held_at, day)
VALUES (:key, 'PENDING', :run_id, :feed, :interaction, :resource_type, :lane, :amount_cents, :claim, :likeness, :fingerprint, :rank, :end_on, :resource_id, :held_at, :day)
ON CONFLICT (key) DO UPDATE SET
    run_id = excluded.run_id,
    feed = excluded.feed,
    interaction = excluded.interaction,
    rank = excluded.rank,
    end_on = excluded.end_on,
    resource_id = coalesce(write.resource_id, excluded.resource_id),
    held_at = coalesce(write.held_at, excluded.held_at),
    lane = excluded.lane,
    amount_cents = excluded.amount_cents,
    claim = excluded.claim,
    likeness = excluded.likeness,
    fingerprint = excluded.fingerprint,
    day = coalesce(excluded.day, write.day),
    attempts = CASE WHEN write.run_id = excluded.run_id THEN write.attempts ELSE 0 END
WHERE write.state = 'PENDING';

-- name: claim
-- Enter a row as above and mark it IN_FLIGHT in one step, on disk before the first byte of the attempt. `since` and
-- `ahead_s` are those of the first send whose answer was lost, else of this one. `until` stays that of the last send
-- until this one has an answer, because this one may still be taken back.
INSERT INTO write (key, state, run_id, feed, interaction, resource_type, lane, amount_cents, claim, likeness, fingerprint, rank, end_on, resource_id, held_at, day,
    attempts, since, ahead_s, sent_at, part)
VALUES (:key, 'IN_FLIGHT', :run_id, :feed, :interaction, :resource_type, :lane, :amount_cents, :claim, :likeness, :fingerprint, :rank, :end_on, :resource_id, :held_at, :day,
    1, :since, :ahead_s, :at, :part)
ON CONFLICT (key) DO UPDATE SET
    state = 'IN_FLIGHT',
    run_id = excluded.run_id,
    feed = excluded.feed,
    interaction = excluded.interaction,
    rank = excluded.rank,
    end_on = excluded.end_on,
    resource_id = coalesce(write.resource_id, excluded.resource_id),
    held_at = coalesce(write.held_at, excluded.held_at),
    lane = excluded.lane,
    amount_cents = excluded.amount_cents,
    claim = excluded.claim,
    likeness = excluded.likeness,
    fingerprint = excluded.fingerprint,
    day = coalesce(excluded.day, write.day),
    attempts = 1 + CASE WHEN write.run_id = excluded.run_id THEN write.attempts ELSE 0 END,
    until = CASE WHEN write.resent > 0 THEN write.until END,
    since = CASE WHEN write.resent > 0 THEN write.since ELSE excluded.since END,
    ahead_s = CASE WHEN write.resent > 0 THEN write.ahead_s ELSE excluded.ahead_s END,
    rule = '', message = '', http_status = NULL, correlation_id = '', sent_at = excluded.sent_at, settled_at = NULL,
    part = excluded.part, orphaned = 0
WHERE write.state = 'PENDING';

-- name: release
-- Take back a write that was never handed to a socket. Only the process that marked it may do so.
UPDATE write SET state = 'PENDING', attempts = attempts - 1, sent_at = NULL WHERE key = :key AND state = 'IN_FLIGHT';

-- name: answers
-- The number of the open attempt of each answer, and whether its id belongs to another row, or is known not to be ours.
SELECT json_extract(answer.value, '$.key'), (SELECT attempts FROM write WHERE key = json_extract(answer.value, '$.key')),
    EXISTS (
        SELECT 1 FROM write
        WHERE resource_type = json_extract(answer.value, '$.resource_type') AND resource_id = json_extract(answer.value, '$.resource_id')
            AND key <> json_extract(answer.value, '$.key')
    ) OR EXISTS (
        SELECT 1 FROM foreign_resource
        WHERE resource_type = json_extract(answer.value, '$.resource_type') AND lane = json_extract(answer.value, '$.lane')
            AND resource_id = json_extract(answer.value, '$.resource_id')
    )
FROM json_each(:answers) AS answer;

-- name: settle
-- Enter the result of an answer.
UPDATE write SET
    state = :state, resource_id = coalesce(resource_id, :resource_id), rule = :rule, message = :message,
    held = CASE :state WHEN 'CONFIRMED' THEN fingerprint ELSE held END,
    held_run = CASE :state WHEN 'CONFIRMED' THEN run_id ELSE held_run END,
    held_at = CASE :state WHEN 'CONFIRMED' THEN :dated ELSE held_at END,
    held_rank = CASE :state WHEN 'CONFIRMED' THEN rank ELSE held_rank END,
    held_end = CASE :state WHEN 'CONFIRMED' THEN end_on ELSE held_end END,
    displaced = CASE :state WHEN 'CONFIRMED' THEN 0 ELSE displaced END,
    since = CASE WHEN resent > 0 THEN since ELSE coalesce(:since, since) END, until = :until,
    http_status = :http_status, correlation_id = :correlation_id, sent_at = :sent_at, settled_at = :settled_at
WHERE key = :key AND state = 'IN_FLIGHT';

-- name: state
SELECT state FROM write WHERE key = :key;

-- name: suspect
-- The journal was lost, and Canvas holds one like it: a person decides.
UPDATE write SET state = 'IN_DOUBT', rule = :rule, message = :message, settled_at = :at
WHERE key = :key AND state = 'PENDING';

-- name: found
-- A search shows it, or a person names it.
UPDATE write SET
    state = 'CONFIRMED', resource_id = :resource_id, rule = :rule, message = :message, settled_at = :at,
    held = fingerprint, held_run = run_id, held_at = :held_at, held_rank = rank, held_end = end_on, displaced = 0
WHERE key = :key AND state = 'IN_DOUBT';

-- name: adopted
-- Canvas held it already, with the content of the file.
UPDATE write SET
    state = 'CONFIRMED', resource_id = :resource_id, rule = :rule, message = :message, settled_at = :at,
    held = fingerprint, held_run = run_id, held_at = :held_at, held_rank = rank, held_end = end_on, displaced = 0
WHERE key = :key AND state = 'PENDING';

-- name: absent
-- Canvas does not have it, so it may be sent again. A create is then owed; an update is taken from the next file.
UPDATE write SET
    state = 'PENDING', resent = resent + CASE interaction WHEN 'create' THEN 1 ELSE 0 END, rule = :rule, message = :message,
    held_at = CASE interaction WHEN 'update' THEN :held_at ELSE held_at END
WHERE key = :key AND state = 'IN_DOUBT';

-- name: conflict
-- Another user edited the resource: our update does not overwrite it.
UPDATE write SET state = 'REFUSED', rule = :rule, message = :message, settled_at = :at
WHERE key = :key AND state = 'IN_DOUBT';

-- name: unsettled_times
-- How far the server's clock was ahead at the first send of what is not settled, or is still to be sent again.
SELECT key, ahead_s FROM write WHERE state = 'IN_FLIGHT' AND ahead_s IS NOT NULL AND (:part = 0 OR part = :part)
UNION ALL
SELECT key, ahead_s FROM write WHERE state = 'IN_DOUBT' AND ahead_s IS NOT NULL AND (:part = 0 OR part = :part)
UNION ALL
SELECT key, ahead_s FROM write WHERE state = 'PENDING' AND resent > 0 AND ahead_s IS NOT NULL AND (:part = 0 OR part = :part);

-- name: forget_times
-- A clock was set since these were sent, and may be set back unnoticed: their times prove nothing any more.
UPDATE write SET ahead_s = NULL WHERE key IN (SELECT value FROM json_each(:keys));

-- name: unclear
-- Note why a write stays in doubt.
UPDATE write SET rule = :rule, message = :message WHERE key = :key AND state = 'IN_DOUBT';

-- name: abandoned
UPDATE write SET state = 'ABANDONED', rule = :rule, message = :message, settled_at = :at
WHERE key = :key AND state = 'IN_DOUBT';

-- name: reopened
-- Put an abandoned write, or one that is to be sent again, in doubt again, so that a person can decide.
UPDATE write SET state = 'IN_DOUBT' WHERE key = :key AND (state = 'ABANDONED' OR (state = 'PENDING' AND resent > 0));

-- name: gone
-- A person declared that Canvas no longer has the resource, which is listed as not ours. A payment is then owed, from
-- now on by the server's clock; a coverage is created by the next file that has it.
UPDATE write SET
    state = 'PENDING', interaction = 'create', resource_id = NULL, rule = :rule, message = :message,
    resent = CASE WHEN resource_type = 'PaymentNotice' AND CAST(:since AS TEXT) IS NOT NULL THEN 1 ELSE 0 END,
    since = :since, until = NULL, ahead_s = :ahead_s, attempts = 0,
    held = NULL, held_run = NULL, held_at = NULL, held_rank = NULL, end_on = NULL, held_end = NULL, displaced = 0,
    http_status = NULL, correlation_id = '', sent_at = NULL, settled_at = NULL, orphaned = 0
WHERE key = :key AND resource_id = :resource_id AND state IN ('CONFIRMED', 'REFUSED');

-- name: gone_ids
-- The resources that persons declared gone.
SELECT resource_id FROM trail WHERE event = 'gone';

-- name: left_in_flight
-- Writes that are in flight when a run or a part of it starts were left by a crash.
SELECT key, sent_at, ahead_s FROM write WHERE state = 'IN_FLIGHT' AND (:part = 0 OR part = :part);

-- name: doubt_in_flight
-- Its answer is lost.
UPDATE write SET
    state = 'IN_DOUBT', rule = 'canvas|no-answer', settled_at = :at, until = :until,
    message = 'the run that sent it ended before the answer came'
WHERE key = :key AND state = 'IN_FLIGHT';

-- name: known
-- The writes with these keys.
SELECT key, state, CASE WHEN displaced = 1 THEN NULL ELSE held END, coalesce(resource_id, '') FROM write WHERE key IN (SELECT value FROM json_each(:keys));

-- name: stamped
-- The last payments that Canvas confirmed by their answers in a run, with the Date of those.
SELECT resource_id, held_at, sent_at, settled_at FROM write
WHERE key IN (
    SELECT key FROM trail WHERE run_id = :run_id AND event = 'write' AND http_status = 201 ORDER BY rowid DESC LIMIT 2000
) AND resource_type = 'PaymentNotice' AND state = 'CONFIRMED' AND held_run = :run_id AND held_at IS NOT NULL
ORDER BY settled_at DESC LIMIT 8;

-- name: held_at
-- When Canvas held what we think it holds of these, the run that wrote it, and whether a read has found an edit since.
SELECT key, held_at, coalesce(held_run, '') AS held_run, rule = 'conflict' AS is_edited FROM write WHERE key IN (SELECT value FROM json_each(:keys));

-- name: ranks
-- The coverages of these patients that the journal knows; active ones have a rank.
SELECT lane, key, feed, resource_id, held_rank, state, displaced, held_at, sent_at, held_end FROM write
WHERE resource_type = 'Coverage' AND lane IN (SELECT value FROM json_each(:lanes)) ORDER BY lane, key;

-- name: displaced
-- Another write of ours moves its order, so the next file that has it writes it again.
UPDATE write SET displaced = 1 WHERE key = :key AND resource_type = 'Coverage' AND resource_id IS NOT NULL;

-- name: active
-- Those of these rows that Canvas holds as active coverages, and that no run has ended. `end_on`: the day of an end that is not made yet.
SELECT key, feed, lane, resource_id, held, held_run, state, displaced, CASE WHEN state IN ('PENDING', 'REFUSED') THEN end_on END AS end_on FROM write
WHERE key IN (SELECT value FROM json_each(:keys))
    AND resource_type = 'Coverage' AND resource_id IS NOT NULL AND held_rank IS NOT NULL AND held_end IS NULL AND held IS NOT NULL;

-- name: ended
-- Those of these coverages that a run has ended because their rows were gone, with the day.
SELECT key, held_end FROM write WHERE key IN (SELECT value FROM json_each(:keys)) AND held_end IS NOT NULL;

-- name: held
-- What Canvas holds of these rows, by the run that sent it.
SELECT key, feed, held, held_run FROM write WHERE key IN (SELECT value FROM json_each(:keys)) AND held IS NOT NULL;

-- name: displaced_of
SELECT key FROM write WHERE feed = :feed AND displaced = 1;

-- name: later_runs
SELECT run_id FROM run WHERE rowid > (SELECT rowid FROM run WHERE run_id = :run_id);

-- name: active_of
-- The keys of a feed's coverages that Canvas holds as active, and that no run has ended.
SELECT key FROM write
WHERE feed = :feed AND resource_type = 'Coverage' AND resource_id IS NOT NULL AND held_rank IS NOT NULL AND held_end IS NULL;

-- name: payments_sent
-- The keys of a feed's payments that Canvas holds, or may hold.
SELECT key FROM write
WHERE feed = :feed AND resource_type = 'PaymentNotice' AND state NOT IN ('PENDING', 'REFUSED');

-- name: open_cancels
-- An active coverage whose next write, not made yet, makes it inactive or ends it.
SELECT key FROM write
WHERE feed = :feed AND resource_type = 'Coverage' AND state IN ('PENDING', 'REFUSED')
    AND held_rank IS NOT NULL AND held_end IS NULL AND (rank IS NULL OR end_on IS NOT NULL);

-- name: line_hash
SELECT hash FROM trail WHERE part = 0 AND number = :number;

-- name: touched
SELECT DISTINCT key FROM trail
WHERE rowid > coalesce((SELECT rowid FROM trail WHERE part = 0 AND number = :number), 0) AND key <> '';

-- name: sibling_since
-- One row if another coverage of the patient was written since this one was, so that Canvas may have moved it.
-- A write moves the coverages at its own order and below, if it came after this one. For a coverage that is not
-- confirmed, `held_at` may be the time of a read, which moves none.
SELECT 1 FROM write AS other JOIN write AS own ON own.key = :key
WHERE other.resource_type = 'Coverage' AND other.lane = own.lane AND other.key <> own.key
    AND other.state = 'CONFIRMED'
    AND other.held_rank <= coalesce(own.held_rank, 5) AND coalesce(other.held_at, other.since) > own.held_at
UNION ALL
SELECT 1 FROM write WHERE key = :key AND displaced = 1 LIMIT 1;

-- name: lost_updates
-- The coverages of which an answer was lost after the line that last confirmed them.
SELECT line.key FROM (
    SELECT key,
        max(CASE WHEN verdict = 'lost' OR event = 'crashed' THEN rowid END) AS lost,
        max(CASE WHEN verdict = 'accepted' OR event IN ('found', 'adopted') THEN rowid END) AS confirmed
    FROM trail WHERE key <> '' GROUP BY key
) AS line JOIN write ON write.key = line.key
WHERE write.resource_type = 'Coverage' AND line.lost > coalesce(line.confirmed, 0);

-- name: writes
-- What the report shows of these keys.
SELECT key, state, run_id, interaction, attempts, coalesce(resource_id, ''), rule, message, http_status, correlation_id, sent_at, settled_at, amount_cents
FROM write WHERE key IN (SELECT value FROM json_each(:keys));

-- name: logged
-- The lines of a run's writes in the audit log.
SELECT key, event, attempt, http_status, correlation_id, verdict, resource_id, at FROM trail
WHERE run_id = :run_id AND key <> '' ORDER BY rowid;

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
SELECT * FROM doubt WHERE state = 'IN_DOUBT' AND (:part = 0 OR part = :part)
UNION ALL
SELECT * FROM doubt WHERE state = 'PENDING' AND resent > 0 AND (:part = 0 OR part = :part)
ORDER BY state, run_id, key;

-- name: doubts_of
SELECT * FROM doubt WHERE key IN (SELECT value FROM json_each(:keys)) ORDER BY run_id, key;

-- name: claimed
-- The resources that belong to a row, or were there before ours.
SELECT resource_id FROM write WHERE resource_type = :resource_type AND resource_id IN (SELECT value FROM json_each(:ids))
UNION
SELECT resource_id FROM foreign_resource WHERE resource_type = :resource_type AND lane = :lane;

-- name: note_foreign
INSERT INTO foreign_resource (resource_type, resource_id, lane, run_id) VALUES (:resource_type, :resource_id, :lane, :run_id)
ON CONFLICT DO NOTHING;

-- name: learn_payer
INSERT INTO payer_seen (payer_id, organization, key, resource_id, run_id, at)
VALUES (:payer_id, :organization, :key, :resource_id, :run_id, :at) ON CONFLICT DO NOTHING;

-- name: forget_payer
DELETE FROM payer_seen WHERE payer_id = :payer_id AND organization <> :organization AND key = '';

-- name: payers_seen
SELECT payer_id, organization FROM payer_seen;

-- name: note_subscriber
-- A row with relationship self is in the plan that is begun.
INSERT INTO subscriber (id_hash, key, lane, number) VALUES (:id_hash, :key, :lane, :number)
ON CONFLICT (id_hash, key) DO UPDATE SET lane = excluded.lane, number = excluded.number;

-- name: subscribers
-- The patients whose rows have these subscriber ids, as far as Canvas has the rows, even if the last write of one failed.
SELECT subscriber.id_hash, subscriber.lane, subscriber.number FROM subscriber
JOIN write ON write.key = subscriber.key AND write.lane = subscriber.lane
WHERE subscriber.id_hash IN (SELECT value FROM json_each(:ids)) AND write.resource_id IS NOT NULL;

-- name: passed_on
-- The subscriber ids that rows of several patients had.
SELECT id_hash FROM subscriber GROUP BY id_hash HAVING min(lane) <> max(lane);

-- name: append
-- One line of the audit log.
INSERT INTO trail (number, at, run_id, event, key, attempt, latency_ms, http_status, correlation_id, verdict, resource_id, detail, who, part, hash)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: head
-- The last line of a part's chain in the audit log.
SELECT number, hash FROM trail WHERE part = :part ORDER BY number DESC LIMIT 1;

-- name: plan_sha256
SELECT detail FROM trail WHERE run_id = :run_id AND event = 'planned' ORDER BY number DESC LIMIT 1;

-- name: trail
SELECT rowid, number, at, run_id, event, key, attempt, latency_ms, http_status, correlation_id, verdict, resource_id, detail, who, part, hash
FROM trail WHERE rowid > :after AND (CAST(:key AS TEXT) IS NULL OR key = :key) ORDER BY rowid LIMIT :count;

-- name: last_line
-- When a run, or a part of it, was last seen alive.
SELECT at FROM trail WHERE :part = 0 OR part = :part ORDER BY rowid DESC LIMIT 1;

-- name: length_after
-- The length of the audit log when a run was reported, just before the run's end was entered.
SELECT coalesce(max(number), 0) FROM trail WHERE part = 0 AND run_id = :run_id AND event <> 'ended';

-- name: evidence
-- Compare the table of writes with the audit log, for these keys or (none given) for all. The last line that implies
-- a state, and the last that implies a resource, are compared with the table. An id in an answer that belongs to
-- another write, or is not ours, implies no resource.
WITH last AS (
    SELECT key,
        max(CASE WHEN event IN ('claim', 'release', 'write', 'crashed', 'suspected', 'found', 'absent', 'conflict', 'adopted', 'abandoned', 'reopened', 'gone') THEN rowid END) AS state_line,
        max(CASE WHEN event = 'intended' THEN rowid END) AS intended_line,
        max(CASE WHEN event IN ('found', 'adopted', 'gone') OR (event = 'write' AND verdict = 'accepted') THEN rowid END) AS resource_line
    FROM trail
    WHERE key <> '' AND event <> 'learned' AND (:is_whole = 1 OR key IN (SELECT value FROM json_each(:keys)))
    GROUP BY key
),
compared AS (
    SELECT last.key AS key, of_state.event AS event, of_state.verdict AS verdict,
        CASE WHEN last.intended_line > coalesce(last.state_line, 0) THEN 1 ELSE 0 END AS is_intended,
        CASE
            WHEN of_resource.rowid IS NULL OR of_resource.event = 'gone' OR of_resource.resource_id = write.resource_id THEN 1
            WHEN of_resource.event = 'write' AND (
                EXISTS (SELECT 1 FROM write AS other WHERE other.resource_type = write.resource_type AND other.resource_id = of_resource.resource_id)
                OR EXISTS (SELECT 1 FROM foreign_resource WHERE foreign_resource.resource_id = of_resource.resource_id)
            ) THEN 1
            ELSE 0
        END AS has_resource,
        write.state AS state
    FROM last
    LEFT JOIN write ON write.key = last.key
    LEFT JOIN trail AS of_state ON of_state.rowid = last.state_line
    LEFT JOIN trail AS of_resource ON of_resource.rowid = last.resource_line
    UNION ALL
    SELECT key, NULL, NULL, 0, 1, state FROM write
    WHERE (:is_whole = 1 OR key IN (SELECT value FROM json_each(:keys))) AND key NOT IN (SELECT key FROM last)
)
SELECT event, verdict, is_intended, has_resource, state, count(*), min(key) FROM compared
GROUP BY event, verdict, is_intended, has_resource, state;

-- name: exchanges
-- All requests of a run, in the order of their grants.
SELECT event, attempt, at, latency_ms, http_status, verdict FROM trail
WHERE run_id = :run_id AND latency_ms IS NOT NULL ORDER BY at, rowid;

-- name: settling
-- The steps of a run on writes that it looked for in Canvas, or that an earlier run left in flight.
SELECT key, event, verdict, detail FROM trail
WHERE run_id = :run_id AND key IN (
    SELECT key FROM trail
    WHERE run_id = :run_id AND event IN ('crashed', 'found', 'absent', 'unclear', 'conflict', 'suspected')
) ORDER BY rowid;

-- name: amounts
-- The columns that a report shows of writes that are in no file.
SELECT key, run_id, feed, interaction, amount_cents FROM write WHERE key IN (SELECT value FROM json_each(:keys));

-- name: confirmed
-- The confirmed writes, patient by patient.
SELECT key, feed, resource_type, lane, resource_id, amount_cents, claim, held_run, held FROM write
WHERE resource_id IS NOT NULL AND held IS NOT NULL AND (CAST(:since AS TEXT) IS NULL OR settled_at >= :since) ORDER BY resource_type, lane, key;

-- name: newest_confirmed
-- The writes of a type that Canvas confirmed last.
SELECT key, feed, resource_type, lane, resource_id, amount_cents, claim, held_run, held FROM write
WHERE resource_type = :resource_type AND state = 'CONFIRMED' AND resource_id IS NOT NULL
ORDER BY settled_at DESC, key LIMIT :most;

-- name: census
-- By state: the number of writes, their cents, and the times of the oldest and the youngest.
SELECT
    state, resource_type, count(*) AS count, CAST(coalesce(sum(amount_cents), 0) AS BIGINT) AS cents,
    min(coalesce(settled_at, sent_at)) AS oldest, max(coalesce(settled_at, sent_at)) AS youngest
FROM write GROUP BY state, resource_type ORDER BY state, resource_type;

-- name: start_run
INSERT INTO run (run_id, command, started_at) VALUES (:run_id, :command, :at);

-- name: finish_run
UPDATE run SET finished_at = :at, exit_code = :exit_code, failure = :failure WHERE run_id = :run_id;

-- name: run
SELECT run_id, command, started_at, finished_at, exit_code, failure FROM run WHERE run_id = :run_id;

-- name: last_run
SELECT run_id, command, started_at, finished_at, exit_code, failure FROM run
WHERE command IN ('plan', 'run') ORDER BY rowid DESC LIMIT 1;

-- name: run_ids
SELECT run_id FROM run;

-- name: runs_unsettled
-- The runs whose plans are still needed: for writes that are in doubt, owed, or abandoned (a person may reopen them),
-- and for the content that Canvas held before.
SELECT run_id FROM write
WHERE state IN ('IN_FLIGHT', 'IN_DOUBT', 'ABANDONED') OR (state = 'PENDING' AND resent > 0)
UNION
SELECT held_run FROM write
WHERE held_run IS NOT NULL AND (state IN ('IN_FLIGHT', 'IN_DOUBT', 'ABANDONED') OR (state = 'PENDING' AND resent > 0));

-- name: runs_holding
-- The runs whose plans have the content that Canvas holds of these feeds' coverages that no run has ended.
SELECT DISTINCT held_run FROM write
WHERE feed IN (SELECT value FROM json_each(:feeds)) AND resource_type = 'Coverage' AND held_rank IS NOT NULL AND held_end IS NULL AND held_run IS NOT NULL;

-- name: count_words
SELECT count(*) FROM write WHERE message <> '' AND settled_at < :before AND state IN ('CONFIRMED', 'REFUSED');

-- name: forget_words
-- Remove the messages of old writes, which may quote Canvas. The writes stay.
UPDATE write SET message = '' WHERE message <> '' AND settled_at < :before AND state IN ('CONFIRMED', 'REFUSED');

-- name: was_purged
SELECT 1 FROM trail WHERE event = 'purged' AND detail = :run_id LIMIT 1;

-- name: enter_lost_run
INSERT INTO run (run_id, command, started_at) VALUES (:run_id, 'lost', '') ON CONFLICT DO NOTHING;

-- name: last_entered
-- The run that was entered last; ids sort by time to the second only.
SELECT run_id FROM run ORDER BY rowid DESC LIMIT 1;

-- name: enter_feed
INSERT INTO run_feed (run_id, feed, rows_read, cents_read, files, is_change, interchanges)
VALUES (:run_id, :feed, :rows_read, :cents_read, :files, :is_change, :interchanges)
ON CONFLICT DO NOTHING;

-- name: last_feed
-- The totals of a feed's files in the last run that passed the limits, without files of changes.
SELECT rows_read, cents_read FROM run_feed WHERE feed = :feed AND is_change = 0 ORDER BY rowid DESC LIMIT 1;

-- name: files_of
-- The number of files that a feed had in a run.
SELECT files FROM run_feed WHERE run_id = :run_id AND feed = :feed;

-- name: last_complete
-- The last run that ended with all files of a feed, and the runs after it that did not, or had files of changes.
SELECT run.run_id FROM run JOIN run_feed USING (run_id)
WHERE run_feed.feed = :feed AND run.command = 'run' AND run.rowid >= (
    SELECT max(run.rowid) FROM run JOIN run_feed USING (run_id)
    WHERE run_feed.feed = :feed AND run.command = 'run' AND run.exit_code IN (0, 3, 4) AND is_change = 0
) ORDER BY run.rowid;

-- name: run_under_way
-- The last run, if it has not ended, and when it began.
SELECT run_id, started_at FROM run
WHERE finished_at IS NULL AND command <> 'lost' AND rowid = (SELECT max(rowid) FROM run);

-- name: ended_early
-- The runs after the last one that processed its files to the end.
SELECT run_id FROM run WHERE command = 'run' AND rowid > coalesce(
    (SELECT max(rowid) FROM run WHERE command = 'run' AND exit_code IN (0, 3, 4)), 0
) ORDER BY rowid;

-- name: interchanges
-- The X12 interchanges of a feed's runs that passed the limits, and whether each run ended with all files.
SELECT run.run_id, coalesce(run.exit_code, 1) IN (0, 3, 4), run_feed.interchanges FROM run JOIN run_feed USING (run_id)
WHERE run_feed.feed = :feed AND run.command = 'run' AND run_feed.interchanges <> '[]' ORDER BY run.rowid;

-- name: feed_key
-- The fields of a feed's key, in the order in which they are hashed.
SELECT fields FROM feed_key WHERE feed = :feed;

-- name: enter_feed_key
INSERT INTO feed_key (feed, fields, run_id) VALUES (:feed, :fields, :run_id)
ON CONFLICT (feed) DO UPDATE SET fields = excluded.fields, run_id = excluded.run_id;

-- name: has_writes
SELECT 1 FROM write WHERE feed = :feed LIMIT 1;

-- name: confirmed_of
-- The keys of a feed's writes that Canvas confirmed.
SELECT key FROM write WHERE feed = :feed AND state = 'CONFIRMED';

-- name: payments_of
-- The payments of these patients that Canvas holds or may hold, and those that are owed; with the day of the last send.
SELECT lane, key, feed, amount_cents, claim, day, substr(coalesce(sent_at, settled_at), 1, 10) FROM write
WHERE resource_type = 'PaymentNotice' AND lane IN (SELECT value FROM json_each(:lanes))
    AND (state IN ('CONFIRMED', 'IN_FLIGHT', 'IN_DOUBT') OR (state = 'PENDING' AND resent > 0));

-- name: coverages_of
-- The coverages of these patients that Canvas holds as active, with the content and the run that sent it.
SELECT lane, key, feed, held, held_run FROM write
WHERE resource_type = 'Coverage' AND lane IN (SELECT value FROM json_each(:lanes))
    AND resource_id IS NOT NULL AND held_rank IS NOT NULL AND held IS NOT NULL;

-- name: set_meta
INSERT INTO meta (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: meta
SELECT name, value FROM meta;
