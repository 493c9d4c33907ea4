-- Statements that differ from those of SQLite, or that only PostgreSQL has.

-- name: answers
SELECT answer.key, (SELECT attempts FROM write WHERE write.key = answer.key),
    EXISTS (
        SELECT 1 FROM write
        WHERE write.resource_type = answer.resource_type AND write.resource_id = answer.resource_id AND write.key <> answer.key
    ) OR EXISTS (
        SELECT 1 FROM foreign_resource
        WHERE foreign_resource.resource_type = answer.resource_type AND foreign_resource.lane = answer.lane
            AND foreign_resource.resource_id = answer.resource_id
    )
FROM json_to_recordset(CAST(:answers AS json)) AS answer (key TEXT, resource_type TEXT, lane TEXT, resource_id TEXT);

-- name: holders
-- The holders of the run with all its parts, or of one part, including those whose lease ran out.
SELECT part, holder FROM lease WHERE holder IS NOT NULL AND (:part = 0 OR part = :part);

-- name: orphan
-- The process that began these writes is fenced but may be alive: if it froze at the wrong moment, it may send each once more.
UPDATE write SET orphaned = 1 WHERE state = 'IN_FLIGHT' AND part = ANY(:parts);

-- name: take_run
-- Take the run's lease if neither it nor a part of it is held; older epochs are fenced.
UPDATE lease SET epoch = epoch + 1, holder = :holder, is_stopping = FALSE, expires_at = clock_timestamp() + make_interval(secs => :ttl_s)
WHERE part = 0 AND (holder IS NULL OR expires_at < clock_timestamp())
    AND NOT EXISTS (SELECT 1 FROM lease AS other WHERE other.part <> 0 AND other.holder IS NOT NULL AND other.expires_at >= clock_timestamp())
RETURNING epoch;

-- name: fence_parts
UPDATE lease SET epoch = epoch + 1, holder = NULL WHERE part <> 0;

-- name: offer_parts
INSERT INTO lease (part) SELECT generate_series(1, CAST(:parts AS INTEGER)) ON CONFLICT DO NOTHING;

-- name: take_part
-- The lease of a part, while the run that offers it is alive and is not to end.
UPDATE lease SET epoch = epoch + 1, holder = :holder, expires_at = clock_timestamp() + make_interval(secs => :ttl_s)
WHERE part = :part AND (holder IS NULL OR expires_at < clock_timestamp())
    AND EXISTS (SELECT 1 FROM lease AS run
        WHERE run.part = 0 AND run.epoch = :run_epoch AND run.holder IS NOT NULL AND run.expires_at >= clock_timestamp() AND NOT run.is_stopping)
RETURNING epoch;

-- name: renew
UPDATE lease SET expires_at = clock_timestamp() + make_interval(secs => :ttl_s)
WHERE part = :part AND epoch = :epoch AND holder = :holder AND expires_at > clock_timestamp()
    AND (part = 0 OR EXISTS (SELECT 1 FROM lease AS run WHERE run.part = 0 AND run.epoch = :run_epoch AND run.holder IS NOT NULL AND run.expires_at >= clock_timestamp()))
RETURNING (SELECT run.is_stopping FROM lease AS run WHERE run.part = 0);

-- name: ask_to_stop
UPDATE lease SET is_stopping = TRUE WHERE part = 0 AND epoch = :epoch;

-- name: run_of_parts
-- True if the run is asked to end; no row if it has ended.
SELECT is_stopping FROM lease WHERE part = 0 AND epoch = :run_epoch AND holder IS NOT NULL AND expires_at >= clock_timestamp();

-- name: parts_of_run
-- Whether the run is asked to end (NULL: it has ended), its parts that are done, and all parts without a holder.
SELECT
    (SELECT is_stopping FROM lease WHERE part = 0 AND epoch = :run_epoch AND holder IS NOT NULL AND expires_at >= clock_timestamp()),
    ARRAY(SELECT part FROM stint WHERE stint.run_id = :run_id AND ended = 'done'),
    ARRAY(SELECT part FROM lease WHERE part <> 0 AND (holder IS NULL OR expires_at < clock_timestamp()));

-- name: parts_held
SELECT count(*) FROM lease WHERE part <> 0 AND holder IS NOT NULL AND expires_at >= clock_timestamp();

-- name: begin
-- One row if the lease is ours, which no process can then take until the transaction ends. Sent as one message.
BEGIN;
SELECT 1 FROM lease WHERE part = {part} AND epoch = {epoch} AND holder IS NOT NULL AND expires_at > clock_timestamp() FOR SHARE;

-- name: let_go
UPDATE lease SET holder = NULL WHERE part = :part AND epoch = :epoch AND holder = :holder;

-- name: who_holds
-- The seconds for which the run with all its parts, or one part, is still held; and the end of its own lease, as Unix time.
SELECT CAST(extract(epoch FROM max(expires_at) - clock_timestamp()) AS DOUBLE PRECISION),
    CAST(extract(epoch FROM max(expires_at) FILTER (WHERE part = :part)) AS DOUBLE PRECISION)
FROM lease WHERE holder IS NOT NULL AND expires_at >= clock_timestamp() AND (:part = 0 OR part = :part);

-- name: begin_lease
INSERT INTO stint (part, epoch, run_id, holder, first_line, taken_at) VALUES (:part, :epoch, :run_id, :holder, :first_line, :at);

-- name: store_counts
UPDATE stint SET counts = :counts WHERE part = :part AND epoch = :epoch;

-- name: end_lease
UPDATE stint SET ended_at = :at, ended = :ended, counts = :counts WHERE part = :part AND epoch = :epoch AND ended_at IS NULL;

-- name: lines_of_parts
SELECT CAST(coalesce(sum(last - number + 1), 0) AS BIGINT) FROM trail_group WHERE part <> 0;

-- name: lease_records
SELECT part, epoch, holder, first_line, taken_at, ended_at, ended, counts FROM stint WHERE run_id = :run_id ORDER BY part, epoch;

-- name: requests_of_leases
SELECT stint.part, stint.epoch, count(trail.latency_ms), count(*) FILTER (WHERE trail.event = 'write')
FROM stint LEFT JOIN trail ON trail.part = stint.part AND trail.run_id = stint.run_id AND trail.number > stint.first_line
    AND trail.number <= coalesce(
        (SELECT min(later.first_line) FROM stint AS later WHERE later.part = stint.part AND later.epoch > stint.epoch), trail.number)
WHERE stint.run_id = :run_id GROUP BY stint.part, stint.epoch;

-- name: claim
-- As `claim` of SQLite, of all rows at once: what is handed over is a list for each column.
INSERT INTO write (key, state, run_id, feed, interaction, resource_type, lane, amount_cents, claim, likeness, fingerprint, rank, end_on, resource_id, held_at, day,
    attempts, since, ahead_s, sent_at, part)
SELECT key, 'IN_FLIGHT', run_id, feed, interaction, resource_type, lane, amount_cents, claim, likeness, fingerprint, rank, end_on, resource_id, held_at, day,
    1, since, ahead_s, at, part
FROM unnest(CAST(:key AS TEXT[]), CAST(:run_id AS TEXT[]), CAST(:feed AS TEXT[]), CAST(:interaction AS TEXT[]),
    CAST(:resource_type AS TEXT[]), CAST(:lane AS TEXT[]), CAST(:amount_cents AS BIGINT[]), CAST(:claim AS TEXT[]),
    CAST(:likeness AS TEXT[]), CAST(:fingerprint AS TEXT[]), CAST(:rank AS INTEGER[]), CAST(:end_on AS TEXT[]), CAST(:resource_id AS TEXT[]),
    CAST(:held_at AS TEXT[]), CAST(:day AS TEXT[]), CAST(:since AS TEXT[]), CAST(:ahead_s AS DOUBLE PRECISION[]), CAST(:at AS TEXT[]),
    CAST(:part AS INTEGER[]))
    AS line (key, run_id, feed, interaction, resource_type, lane, amount_cents, claim, likeness, fingerprint, rank, end_on, resource_id, held_at, day, since, ahead_s, at, part)
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

-- name: settle
-- As `settle` of SQLite, of all rows at once.
UPDATE write SET
    state = line.state, resource_id = coalesce(write.resource_id, line.resource_id), rule = line.rule, message = line.message,
    held = CASE line.state WHEN 'CONFIRMED' THEN fingerprint ELSE held END,
    held_run = CASE line.state WHEN 'CONFIRMED' THEN run_id ELSE held_run END,
    held_at = CASE line.state WHEN 'CONFIRMED' THEN line.dated ELSE held_at END,
    held_rank = CASE line.state WHEN 'CONFIRMED' THEN rank ELSE held_rank END,
    held_end = CASE line.state WHEN 'CONFIRMED' THEN end_on ELSE held_end END,
    displaced = CASE line.state WHEN 'CONFIRMED' THEN 0 ELSE displaced END,
    since = CASE WHEN resent > 0 THEN write.since ELSE coalesce(line.since, write.since) END, until = line.until,
    http_status = line.http_status, correlation_id = line.correlation_id, sent_at = line.sent_at, settled_at = line.settled_at
FROM unnest(CAST(:key AS TEXT[]), CAST(:state AS TEXT[]), CAST(:resource_id AS TEXT[]), CAST(:rule AS TEXT[]),
    CAST(:message AS TEXT[]), CAST(:since AS TEXT[]), CAST(:until AS TEXT[]), CAST(:dated AS TEXT[]),
    CAST(:http_status AS INTEGER[]), CAST(:correlation_id AS TEXT[]), CAST(:sent_at AS TEXT[]), CAST(:settled_at AS
    TEXT[]))
    AS line (key, state, resource_id, rule, message, since, until, dated, http_status, correlation_id, sent_at, settled_at)
WHERE write.key = line.key AND write.state = 'IN_FLIGHT';

-- name: append
-- Lines of the audit log, each row those of one run. In their order.
INSERT INTO trail_group (part, number, last, run_id, lines)
SELECT * FROM unnest(CAST(:part AS INTEGER[]), CAST(:number AS BIGINT[]), CAST(:last AS BIGINT[]), CAST(:run_id AS TEXT[]), CAST(:lines AS JSON[]));

-- name: head
SELECT last, lines -> -1 ->> 11 FROM trail_group WHERE part = :part ORDER BY number DESC LIMIT 1;

-- name: line_hash
SELECT lines -> CAST(:number - number AS INTEGER) ->> 11 FROM trail_group WHERE part = 0 AND number <= :number AND last >= :number;

-- name: touched
SELECT DISTINCT key FROM trail WHERE key <> '' AND in_group > coalesce((SELECT max(rowid) FROM trail_group WHERE part = 0 AND last <= :number), 0)
    AND (part <> 0 OR number > :number);

-- name: trail
SELECT rowid, number, at, run_id, event, key, attempt, latency_ms, http_status, correlation_id, verdict, resource_id, detail, who, part, hash
FROM trail WHERE in_group >= CAST(:after AS BIGINT) >> 20 AND rowid > :after AND (CAST(:key AS TEXT) IS NULL OR key = :key)
ORDER BY in_group, rowid LIMIT :count;

-- name: last_line
SELECT at FROM trail WHERE in_group = (SELECT max(rowid) FROM trail_group WHERE :part = 0 OR part = :part) ORDER BY rowid DESC LIMIT 1;

-- name: payments_of
-- As `payments_of` of SQLite, by the index of each kind.
WITH asked AS (SELECT jsonb_array_elements_text(CAST(:lanes AS jsonb)) AS lane)
SELECT lane, key, feed, amount_cents, claim, day, substr(coalesce(sent_at, settled_at), 1, 10) FROM write
WHERE resource_type = 'PaymentNotice' AND state = 'CONFIRMED' AND lane IN (SELECT lane FROM asked)
UNION ALL
SELECT lane, key, feed, amount_cents, claim, day, substr(coalesce(sent_at, settled_at), 1, 10) FROM write
WHERE resource_type = 'PaymentNotice' AND state IN ('IN_FLIGHT', 'IN_DOUBT') AND lane IN (SELECT lane FROM asked)
UNION ALL
SELECT lane, key, feed, amount_cents, claim, day, substr(coalesce(sent_at, settled_at), 1, 10) FROM write
WHERE resource_type = 'PaymentNotice' AND state = 'PENDING' AND resent > 0 AND lane IN (SELECT lane FROM asked);

-- name: stamped
-- As `stamped` of SQLite, of the last groups of the run's lines.
WITH recent AS MATERIALIZED (
    SELECT key FROM trail WHERE event = 'write' AND http_status = 201
        AND in_group IN (SELECT rowid FROM trail_group WHERE run_id = :run_id ORDER BY rowid DESC LIMIT 200)
    ORDER BY rowid DESC LIMIT 2000
)
SELECT resource_id, held_at, sent_at, settled_at FROM recent CROSS JOIN LATERAL (
    SELECT * FROM write WHERE write.key = recent.key OFFSET 0 -- by its index
) AS own
WHERE resource_type = 'PaymentNotice' AND state = 'CONFIRMED' AND held_run = :run_id AND held_at IS NOT NULL
ORDER BY settled_at DESC LIMIT 8;

-- name: evidence
-- As `evidence` of SQLite; the lines are unpacked once.
WITH line AS MATERIALIZED (
    SELECT rowid, key, event, verdict, resource_id FROM trail
    WHERE key <> '' AND event <> 'learned' AND (:is_whole = 1 OR key IN (SELECT value FROM json_each(:keys)))
),
last AS (
    SELECT key,
        max(CASE WHEN event IN ('claim', 'release', 'write', 'crashed', 'suspected', 'found', 'absent', 'conflict', 'adopted', 'abandoned', 'reopened', 'gone') THEN rowid END) AS state_line,
        max(CASE WHEN event = 'intended' THEN rowid END) AS intended_line,
        max(CASE WHEN event IN ('found', 'adopted', 'gone') OR (event = 'write' AND verdict = 'accepted') THEN rowid END) AS resource_line
    FROM line GROUP BY key
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
    LEFT JOIN line AS of_state ON of_state.rowid = last.state_line
    LEFT JOIN line AS of_resource ON of_resource.rowid = last.resource_line
    UNION ALL
    SELECT key, NULL, NULL, 0, 1, state FROM write
    WHERE (:is_whole = 1 OR key IN (SELECT value FROM json_each(:keys))) AND key NOT IN (SELECT key FROM last)
)
SELECT event, verdict, is_intended, has_resource, state, count(*), min(key) FROM compared
GROUP BY event, verdict, is_intended, has_resource, state;
