-- The statements that PostgreSQL has in another way than SQLite, or alone.

-- name: ids_of_others
SELECT answer.key
FROM jsonb_to_recordset(CAST(:answers AS jsonb)) AS answer (key TEXT, resource_type TEXT, lane TEXT, resource_id TEXT)
WHERE EXISTS (
    SELECT 1 FROM write
    WHERE write.resource_type = answer.resource_type AND write.resource_id = answer.resource_id AND write.key <> answer.key
) OR EXISTS (
    SELECT 1 FROM foreign_resource
    WHERE foreign_resource.resource_type = answer.resource_type AND foreign_resource.lane = answer.lane
        AND foreign_resource.resource_id = answer.resource_id
);

-- name: holders
-- Who holds the run or a part of it, or did and did not let it go.
SELECT holder FROM lease WHERE holder IS NOT NULL AND (:part = 0 OR part = :part);

-- name: take_run
-- The run's lease, where nobody holds it or a part of it; older epochs are fenced.
UPDATE lease SET epoch = epoch + 1, holder = :holder, is_stopping = FALSE, expires_at = clock_timestamp() + make_interval(secs => :ttl_s),
    has_orphans = NOT CAST(:is_alone AS BOOLEAN) OR EXISTS (SELECT 1 FROM lease AS any_part WHERE any_part.has_orphans)
WHERE part = 0 AND (holder IS NULL OR expires_at < clock_timestamp())
    AND NOT EXISTS (SELECT 1 FROM lease AS other WHERE other.part <> 0 AND other.holder IS NOT NULL AND other.expires_at >= clock_timestamp())
RETURNING epoch, has_orphans;

-- name: holders_of_parts
-- Who holds a part, or did and did not let it go; and whether somebody before them may be alive.
SELECT holder, has_orphans FROM lease WHERE part <> 0 AND (holder IS NOT NULL OR has_orphans);

-- name: fence_parts
UPDATE lease SET epoch = epoch + 1, holder = NULL, has_orphans = FALSE WHERE part <> 0;

-- name: forget_orphans
UPDATE lease SET has_orphans = FALSE WHERE part = :part AND has_orphans;

-- name: offer_parts
INSERT INTO lease (part) SELECT generate_series(1, CAST(:parts AS INTEGER)) ON CONFLICT DO NOTHING;

-- name: take_part
-- The lease of a part, while the run that offers it is alive.
UPDATE lease SET epoch = epoch + 1, holder = :holder, expires_at = clock_timestamp() + make_interval(secs => :ttl_s),
    has_orphans = has_orphans OR NOT CAST(:is_alone AS BOOLEAN)
WHERE part = :part AND (holder IS NULL OR expires_at < clock_timestamp())
    AND EXISTS (SELECT 1 FROM lease AS run WHERE run.part = 0 AND run.epoch = :run_epoch AND run.holder IS NOT NULL AND run.expires_at >= clock_timestamp())
RETURNING epoch, has_orphans;

-- name: renew
UPDATE lease SET expires_at = clock_timestamp() + make_interval(secs => :ttl_s)
WHERE part = :part AND epoch = :epoch AND holder = :holder AND expires_at > clock_timestamp()
    AND (part = 0 OR EXISTS (SELECT 1 FROM lease AS run WHERE run.part = 0 AND run.epoch = :run_epoch AND run.holder IS NOT NULL AND run.expires_at >= clock_timestamp()))
RETURNING (SELECT run.is_stopping FROM lease AS run WHERE run.part = 0);

-- name: ask_to_stop
UPDATE lease SET is_stopping = TRUE WHERE part = 0 AND epoch = :epoch;

-- name: run_of_parts
-- Whether the run is to end; no row where it has.
SELECT is_stopping FROM lease WHERE part = 0 AND epoch = :run_epoch AND holder IS NOT NULL AND expires_at >= clock_timestamp();

-- name: parts_held
SELECT count(*) FROM lease WHERE part <> 0 AND holder IS NOT NULL AND expires_at >= clock_timestamp();

-- name: begin
-- Whether the lease is ours, which nobody takes until the transaction ends; in one message.
BEGIN;
SELECT 1 FROM lease WHERE part = {part} AND epoch = {epoch} AND holder IS NOT NULL AND expires_at > clock_timestamp() FOR SHARE;

-- name: let_go
UPDATE lease SET holder = NULL WHERE part = :part AND epoch = :epoch AND holder = :holder;

-- name: who_holds
-- For how long the run with all its parts is held, or one part; and when its own lease ends, or that of the part.
SELECT CAST(extract(epoch FROM max(expires_at) - clock_timestamp()) AS DOUBLE PRECISION),
    CAST(extract(epoch FROM max(expires_at) FILTER (WHERE part = :part)) AS DOUBLE PRECISION)
FROM lease WHERE holder IS NOT NULL AND expires_at >= clock_timestamp() AND (:part = 0 OR part = :part);

-- name: begin_stint
INSERT INTO stint (part, epoch, run_id, holder, first_line, taken_at) VALUES (:part, :epoch, :run_id, :holder, :first_line, :at);

-- name: tell
UPDATE stint SET counts = :counts WHERE part = :part AND epoch = :epoch;

-- name: end_stint
UPDATE stint SET ended_at = :at, ended = :ended, counts = :counts WHERE part = :part AND epoch = :epoch AND ended_at IS NULL;

-- name: stints
SELECT part, epoch, holder, first_line, taken_at, ended_at, ended, counts FROM stint WHERE run_id = :run_id ORDER BY part, epoch;

-- name: requests_of_stints
SELECT stint.part, stint.epoch, count(trail.latency_ms), count(*) FILTER (WHERE trail.event = 'write')
FROM stint LEFT JOIN trail ON trail.part = stint.part AND trail.run_id = stint.run_id AND trail.number > stint.first_line
    AND trail.number <= coalesce(
        (SELECT min(later.first_line) FROM stint AS later WHERE later.part = stint.part AND later.epoch > stint.epoch), trail.number)
WHERE stint.run_id = :run_id GROUP BY stint.part, stint.epoch;
