-- Backtest runs and what they found. Natural keys again: a day or a run written twice is the same day or run.

CREATE TABLE IF NOT EXISTS backtest_runs
(
    run_id       String,
    spec         String, -- canonical JSON
    code_version String,
    state        LowCardinality(String), -- planned | running | done | failed
    result_hash  String, -- empty until done
    summary      String, -- JSON
    error        String,
    version      UInt64, -- planned < running < failed < done; a later attempt counts up
    recorded_at  DateTime('UTC') DEFAULT now() -- for people who look at a list; nothing depends on it
)
ENGINE = ReplacingMergeTree(version) ORDER BY run_id;

CREATE TABLE IF NOT EXISTS backtest_days
(
    run_id    String,
    asset     LowCardinality(String),
    day       Date,
    data_hash String, -- of the rows of the day and its warm-up
    state_in  String, -- fingerprint of the kernel state assumed at the day's first second
    state_out String, -- fingerprint of the state reached at its last
    tape      String CODEC(NONE), -- bytes, compressed by who made them
    facts     String, -- JSON: seconds, holes, first and last price of the day's rows
    timings   String, -- JSON: seconds by phase
    error     String -- why the day could not be scanned; empty otherwise
)
ENGINE = ReplacingMergeTree ORDER BY (run_id, asset, day)
SETTINGS index_granularity = 32;

CREATE TABLE IF NOT EXISTS backtest_trades
(
    run_id          String,
    number          UInt32, -- 1, 2, … in order of entry
    asset           LowCardinality(String),
    instrument      LowCardinality(String),
    direction       Int8, -- 1 bullish, -1 bearish
    tier            UInt8,
    score_milli     Int64, -- at the decision to enter
    decided_ts      Int64, -- s
    entry_ts        Int64, -- s, first entry fill
    exit_ts         Int64, -- s, last exit fill
    entry_order_id  String,
    exit_order_id   String,
    qty             Int64, -- qty scale
    entry_price     Int64, -- mean, price scale
    exit_price      Int64,
    entry_usd_e8    Int64, -- notional of the entry fills
    exit_usd_e8     Int64,
    fees_usd_e8     Int64, -- paid
    slippage_usd_e8 Int64, -- paid, already inside the prices
    funding_usd_e8  Int64, -- received; negative: paid
    pnl_usd_e8      Int64,
    level           Int64, -- the structure's border frozen at entry, price scale; 0 = none
    reason          LowCardinality(String) -- of the exit
)
ENGINE = ReplacingMergeTree ORDER BY (run_id, number);

CREATE TABLE IF NOT EXISTS backtest_equity
(
    run_id        String,
    ts            Int64 CODEC(DoubleDelta, ZSTD(1)), -- s; a point a minute and at each fill
    equity_usd_e8 Int64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree ORDER BY (run_id, ts);

CREATE TABLE IF NOT EXISTS decisions
(
    run_id      String, -- a backtest's, or the live account's
    asset       LowCardinality(String),
    ts          Int64 CODEC(DoubleDelta, ZSTD(1)), -- s
    number      UInt32, -- 0, 1, … within the second
    kind        LowCardinality(String),
    direction   Int8,
    score_milli Int64,
    phase       LowCardinality(String),
    reason      LowCardinality(String),
    order_id    String,
    record      String CODEC(ZSTD(1)) -- the whole Decision as canonical JSON
)
ENGINE = ReplacingMergeTree ORDER BY (run_id, asset, ts, number);
