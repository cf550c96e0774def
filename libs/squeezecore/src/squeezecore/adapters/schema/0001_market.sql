-- What the market said. Integers throughout: sums are exact in any order, and small.
-- Every table is Replacing on its natural key, so the same rows may be sent twice; read with FINAL.

CREATE TABLE IF NOT EXISTS instruments
(
    instrument     String,
    venue          LowCardinality(String),
    symbol         String,
    kind           LowCardinality(String),
    base           LowCardinality(String),
    quote          LowCardinality(String),
    price_decimals UInt8,
    qty_decimals   UInt8,
    definition     String, -- the whole Instrument as canonical JSON
    version        UInt64
)
ENGINE = ReplacingMergeTree(version) ORDER BY instrument;

CREATE TABLE IF NOT EXISTS bars_1s
(
    instrument     LowCardinality(String), -- 'binance:BTC-USDT-PERP'
    ts             DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)), -- covers [ts, ts+1)
    open           Int64 CODEC(GCD, DoubleDelta, ZSTD(1)), -- price scale of the instrument
    high           Int64 CODEC(GCD, DoubleDelta, ZSTD(1)),
    low            Int64 CODEC(GCD, DoubleDelta, ZSTD(1)),
    close          Int64 CODEC(GCD, DoubleDelta, ZSTD(1)),
    buy_volume     Int64 CODEC(GCD, T64, ZSTD(1)), -- base, qty scale
    sell_volume    Int64 CODEC(GCD, T64, ZSTD(1)),
    buy_usd_cents  Int64 CODEC(T64, ZSTD(1)),
    sell_usd_cents Int64 CODEC(T64, ZSTD(1)),
    buy_trades     Int64 CODEC(T64, ZSTD(1)),
    sell_trades    Int64 CODEC(T64, ZSTD(1)),
    largest        Int64 CODEC(GCD, T64, ZSTD(1)),
    complete       UInt8 CODEC(ZSTD(1)),
    last_id        Int64 CODEC(Delta, ZSTD(1)), -- highest id so far: a second without ids repeats the one before
    id_span        UInt64 CODEC(T64, ZSTD(1)), -- last_id - first_id + 1; 0: no ids in this second
    id_kind        UInt8 CODEC(ZSTD(1)), -- 0 none, 1 trades, 2 aggregates
    version        UInt64 CODEC(DoubleDelta, ZSTD(1)) -- complete << 32 | repairs
)
ENGINE = ReplacingMergeTree(version) PARTITION BY toYYYYMMDD(ts) ORDER BY (instrument, ts);

CREATE TABLE IF NOT EXISTS bars_1m
(
    instrument     LowCardinality(String),
    ts             DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)), -- start
    open           Int64 CODEC(GCD, DoubleDelta, ZSTD(1)),
    high           Int64 CODEC(GCD, DoubleDelta, ZSTD(1)),
    low            Int64 CODEC(GCD, DoubleDelta, ZSTD(1)),
    close          Int64 CODEC(GCD, DoubleDelta, ZSTD(1)),
    buy_volume     Int64 CODEC(GCD, T64, ZSTD(1)),
    sell_volume    Int64 CODEC(GCD, T64, ZSTD(1)),
    buy_usd_cents  Int64 CODEC(T64, ZSTD(1)),
    sell_usd_cents Int64 CODEC(T64, ZSTD(1)),
    buy_trades     Int64 CODEC(T64, ZSTD(1)),
    sell_trades    Int64 CODEC(T64, ZSTD(1)),
    largest        Int64 CODEC(GCD, T64, ZSTD(1)),
    seconds        UInt32 CODEC(T64, ZSTD(1)), -- present
    complete       UInt32 CODEC(T64, ZSTD(1)), -- of them complete
    version        UInt64 CODEC(T64, ZSTD(1)) -- sum of (version + 1) of its seconds: grows with each one added or repaired
)
ENGINE = ReplacingMergeTree(version) PARTITION BY toYYYYMM(ts) ORDER BY (instrument, ts);

CREATE TABLE IF NOT EXISTS bars_5m AS bars_1m;

CREATE TABLE IF NOT EXISTS bars_1h AS bars_1m;

CREATE TABLE IF NOT EXISTS rows_1s
(
    asset           LowCardinality(String),
    ts              DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    open            Int64 CODEC(GCD, DoubleDelta, ZSTD(1)), -- traded instrument, price scale
    high            Int64 CODEC(GCD, DoubleDelta, ZSTD(1)),
    low             Int64 CODEC(GCD, DoubleDelta, ZSTD(1)),
    close           Int64 CODEC(GCD, DoubleDelta, ZSTD(1)),
    buy_qty         Int64 CODEC(GCD, T64, ZSTD(1)),
    sell_qty        Int64 CODEC(GCD, T64, ZSTD(1)),
    mark            Int64 CODEC(GCD, DoubleDelta, ZSTD(1)),
    spot_delta      Int64 CODEC(T64, ZSTD(1)), -- USD cents, all venues weighted together
    perp_delta      Int64 CODEC(T64, ZSTD(1)),
    spot_volume     Int64 CODEC(T64, ZSTD(1)),
    perp_volume     Int64 CODEC(T64, ZSTD(1)),
    open_interest   Int64 CODEC(GCD, DoubleDelta, ZSTD(1)), -- last value known at ts
    oi_known_at     Int64 CODEC(DoubleDelta, ZSTD(1)),
    oi_interval_s   Int64 CODEC(DoubleDelta, ZSTD(1)),
    funding_rate_8h Int64 CODEC(DoubleDelta, ZSTD(1)), -- rate * 1e10
    basis_bps       Int64 CODEC(T64, ZSTD(1)), -- bps * 1e3
    quality_ppm     Int64 CODEC(T64, ZSTD(1)),
    config_rev      Int64 CODEC(DoubleDelta, ZSTD(1)),
    version         UInt64 CODEC(DoubleDelta, ZSTD(1)) -- revision << 20 | quality_ppm
)
ENGINE = ReplacingMergeTree(version) PARTITION BY toYYYYMMDD(ts) ORDER BY (asset, ts);

-- What live saw before a second was repaired; every version once.
CREATE TABLE IF NOT EXISTS rows_superseded AS rows_1s
ENGINE = ReplacingMergeTree(version) PARTITION BY toYYYYMM(ts) ORDER BY (asset, ts, version);

CREATE TABLE IF NOT EXISTS open_interest
(
    instrument    LowCardinality(String),
    known_at      DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)), -- when it could first be known
    event_ts      DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)), -- the venue's time
    open_interest Int64 CODEC(GCD, DoubleDelta, ZSTD(1)), -- base, qty scale
    interval_s    Int64 CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(known_at) ORDER BY (instrument, known_at, event_ts);

CREATE TABLE IF NOT EXISTS funding
(
    instrument LowCardinality(String),
    event_ts   DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)), -- when it is paid
    known_at   DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    rate       Int64 CODEC(T64, ZSTD(1)), -- of its own interval, * 1e10; positive: longs pay
    interval_s Int64 CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(event_ts) ORDER BY (instrument, event_ts);

CREATE TABLE IF NOT EXISTS marks
(
    instrument LowCardinality(String),
    ts         DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)), -- the mark price known at the start of this second
    mark       Int64 CODEC(GCD, DoubleDelta, ZSTD(1)) -- price scale
)
ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(ts) ORDER BY (instrument, ts);

CREATE TABLE IF NOT EXISTS gaps
(
    instrument LowCardinality(String),
    start_s    DateTime('UTC'), -- second of the last print before the hole
    end_s      DateTime('UTC'), -- second of the first print after it
    first_id   Int64,
    last_id    Int64,
    missing    Int64,
    cause      String,
    state      LowCardinality(String), -- open | filled
    version    UInt64 -- filled wins over open
)
ENGINE = ReplacingMergeTree(version) ORDER BY (instrument, start_s, end_s, first_id, last_id);

-- Which file brought which day of which instrument: importing it again is a no-op, one kind a day.
CREATE TABLE IF NOT EXISTS imports
(
    instrument LowCardinality(String),
    day        Date,
    kind       LowCardinality(String), -- trade | aggregate | funding | open_interest | …
    sha256     String,
    source     String, -- file name, without its folder
    rows       UInt64,
    first_id   Int64, -- -1 where there are no ids
    last_id    Int64,
    state      LowCardinality(String), -- started | done
    report     String, -- JSON: what was repaired or set aside, counted
    version    UInt64 -- done wins over started
)
ENGINE = ReplacingMergeTree(version) ORDER BY (instrument, day, kind, sha256);

CREATE TABLE IF NOT EXISTS config
(
    key     String,
    value   String,
    version UInt64
)
ENGINE = ReplacingMergeTree(version) ORDER BY key;
