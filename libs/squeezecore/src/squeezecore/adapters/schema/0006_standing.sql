-- From which second on an account might trade: what its switches were when its seconds were settled, and its orders judged.
-- `switches` says who asked for what; a switch that could not be read stands only here.

CREATE TABLE IF NOT EXISTS standings
(
    run_id      String,
    ts          Int64, -- s
    judging     UInt8, -- 1: from the judgement of this second's orders on, 0: from its settlement on
    state       LowCardinality(String), -- active | reducing | halted
    kill_switch UInt8
)
ENGINE = ReplacingMergeTree ORDER BY (run_id, ts, judging)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
