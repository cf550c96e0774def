-- What was tried, and what luck would have brought. Rows are never changed: what is said again is the same row.

-- One link of a chain a finished run (docs/adr/0006): each names the hash of the link before it and the heads it saw.
-- The hash is part of the key, so that a second link in the same place stands beside the first and is found.
CREATE TABLE IF NOT EXISTS trials
(
    writer       String, -- of one chain; drawn at random
    sequence     UInt64, -- 0, 1, … within the chain
    generation   UInt64, -- one more than the highest it has seen: the newer of two trials of a run has the higher
    previous     String, -- hash of the chain's link before; empty for the first
    seen         Array(String), -- hashes of the other chains' heads, ascending
    run_id       String,
    result_hash  String,
    spec         String, -- canonical JSON
    first_day    Date,
    last_day     Date,
    assets       Array(String), -- ascending
    daily        Array(Float64), -- return of each day
    sharpe       Nullable(Float64), -- of these days, a year; NULL where they do not differ
    total_return Float64,
    trades       UInt64,
    code_version String,
    hash         String -- of all above
)
ENGINE = ReplacingMergeTree ORDER BY (writer, sequence, hash);

-- The same strategy where flow knows nothing, and entries at random; for one result of a run only.
CREATE TABLE IF NOT EXISTS placebos
(
    run_id       String,
    result_hash  String,
    name         LowCardinality(String), -- shuffled | random
    seed         UInt64,
    total_return Float64,
    sharpe       Nullable(Float64), -- a year; NULL where it is not defined
    trades       UInt64,
    win_rate     Nullable(Float64)
)
ENGINE = ReplacingMergeTree ORDER BY (run_id, result_hash, name, seed);

-- What was worked out about one result of a run: a part made for another result is not used.
CREATE TABLE IF NOT EXISTS run_parts
(
    run_id      String,
    part        LowCardinality(String),
    result_hash String,
    body        String CODEC(ZSTD(1)), -- as whoever makes the part writes it
    version     UInt64 -- format of the body; the newer of two wins
)
ENGINE = ReplacingMergeTree(version) ORDER BY (run_id, part, result_hash);
