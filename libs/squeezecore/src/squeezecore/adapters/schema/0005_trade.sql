-- What we said and did live. `run_id` is "live:<account>"; a record's own key names it, so that it may be written again.
-- The stream is the source of truth until a record is here; from then on a power cut must not lose it.

CREATE TABLE IF NOT EXISTS signals
(
    run_id      String,
    asset       LowCardinality(String),
    ts          Int64 CODEC(DoubleDelta, ZSTD(1)), -- s
    direction   Int8, -- 1 bullish, -1 bearish, 0 no opinion any more
    score_milli Int64,
    reasons     Array(String),
    params_hash LowCardinality(String)
)
ENGINE = ReplacingMergeTree ORDER BY (run_id, asset, ts);

CREATE TABLE IF NOT EXISTS orders
(
    run_id      String,
    id          String,
    asset       LowCardinality(String),
    instrument  LowCardinality(String),
    decided_ts  Int64, -- s
    side        Int8, -- 1 buy, -1 sell
    qty         Int64, -- qty scale
    kind        LowCardinality(String),
    price       Int64, -- price scale; 0 for market
    reduce_only UInt8,
    reason      LowCardinality(String)
)
ENGINE = ReplacingMergeTree ORDER BY (run_id, decided_ts, id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS order_updates
(
    run_id   String,
    order_id String,
    ts       Int64, -- s
    state    LowCardinality(String),
    reason   String,
    limit    String,
    value    String
)
ENGINE = ReplacingMergeTree ORDER BY (run_id, ts, order_id, state)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS fills
(
    run_id         String,
    id             String,
    order_id       String,
    asset          LowCardinality(String),
    instrument     LowCardinality(String),
    ts             Int64, -- s
    side           Int8,
    price          Int64,
    qty            Int64,
    fee_usd_e8     Int64, -- positive: we paid
    slippage_usd_e8 Int64,
    liquidity      LowCardinality(String),
    reason         LowCardinality(String)
)
ENGINE = ReplacingMergeTree ORDER BY (run_id, ts, id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS payments
(
    run_id          String,
    instrument      LowCardinality(String),
    ts              Int64, -- s, when it was due
    received_usd_e8 Int64 -- negative: we paid
)
ENGINE = ReplacingMergeTree ORDER BY (run_id, ts, instrument)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS equity
(
    run_id        String,
    ts            Int64 CODEC(DoubleDelta, ZSTD(1)), -- s
    equity_usd_e8 Int64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree ORDER BY (run_id, ts)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Who switched trading off and on.
CREATE TABLE IF NOT EXISTS switches
(
    account     LowCardinality(String),
    revision    UInt64, -- of the switch's key on the bus
    at_ns       Int64, -- UTC
    state       LowCardinality(String), -- active | reducing | halted
    kill_switch UInt8,
    reason      String
)
ENGINE = ReplacingMergeTree ORDER BY (account, at_ns, revision)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
