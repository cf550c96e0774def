-- The live flow: prints as they came, where a service stands, and which configuration held from when.

-- Every print that was heard, kept for days: a second is made anew from here when a print comes late.
CREATE TABLE IF NOT EXISTS trades
(
    instrument  LowCardinality(String),
    exchange_ns Int64 CODEC(Delta, ZSTD(1)), -- when it happened, UTC
    id          Int64 CODEC(Delta, ZSTD(1)), -- the venue's; -1 where it has none
    price       Int64 CODEC(GCD, DoubleDelta, ZSTD(1)), -- price scale of the instrument
    qty         Int64 CODEC(GCD, T64, ZSTD(1)), -- base, qty scale
    side        Int8 CODEC(ZSTD(1)), -- of the taker
    twin        UInt32 CODEC(T64, ZSTD(1)), -- how many equal prints without an id stood before it in its batch
    received_ns Int64 CODEC(Delta, ZSTD(1)), -- when we heard
    quote_cents Int64 CODEC(T64, ZSTD(1)), -- notional where it is not price * qty, else -1
    flags       UInt8 CODEC(ZSTD(1)), -- market.TradeFlag
    ts          DateTime('UTC') MATERIALIZED toDateTime(intDiv(exchange_ns, 1000000000), 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    recorded_at DateTime('UTC') DEFAULT now() CODEC(DoubleDelta, ZSTD(1)) -- ours: a replayed old day is kept as long as a new one
)
ENGINE = ReplacingMergeTree PARTITION BY toYYYYMMDD(ts) ORDER BY (instrument, exchange_ns, id, price, qty, side, twin)
TTL recorded_at + INTERVAL 7 DAY SETTINGS ttl_only_drop_parts = 1;

-- A service's state and the stream position it belongs to; the later position of two for one time wins.
CREATE TABLE IF NOT EXISTS snapshots
(
    service      LowCardinality(String),
    key          String, -- what of it: an asset, an account, a stream
    ts           DateTime('UTC'), -- seconds before this one are in the state
    stream_seq   UInt64, -- the last message that is in the state
    code_version String,
    body         String CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree ORDER BY (service, key, ts, stream_seq);

-- Which configuration an asset's rows follow, from a UTC minute on.
CREATE TABLE IF NOT EXISTS asset_changes
(
    asset      LowCardinality(String),
    from_ts    DateTime('UTC'),
    config_rev Int64, -- 0: no longer watched
    config     String -- canonical JSON; empty: no longer watched
)
ENGINE = ReplacingMergeTree ORDER BY (asset, from_ts);
