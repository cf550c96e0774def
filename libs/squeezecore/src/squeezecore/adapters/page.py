"""What a report page holds, as values: `squeezeview` draws it, nobody computes anything after it.

A page is one run, or several side by side. Numbers that people read come with their unit, and with their interval where
they have one; series come as packs of integers. Times are UTC seconds, shares and returns fractions (0.01 is one per cent),
money USD as decimals, prices in quote units. The front end's types mirror these field by field (a test compares them).
"""

from __future__ import annotations

import base64
import datetime as dt
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

FORMAT = 2  # of the document; the front end refuses another


class PackedColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A column of a pack: value = integer / scale."""

    name: str
    unit: str
    scale: int = 1


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """Columns of one length.

    `data` is base64 of deflate (with zlib's header) of the columns one after the other, each as zigzag LEB128 differences
    from the value before it (the first from 0). Integers and differences stay within 2^53, so that a browser holds them exactly.
    """

    count: int
    columns: tuple[PackedColumn, ...]
    data: str


class Series(NamedTuple):
    """A column before it is packed."""

    name: str
    unit: str
    scale: int
    values: NDArray[np.int64]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One number with its meaning."""

    name: str  # the key of machines: `sharpe`
    label: str  # what people read: `Sharpe ratio`
    value: float | None  # none: not defined here, `note` says why
    unit: str = ""  # share | usd | seconds | bps | count | ratio | date | ""
    low: float | None = None  # of the 95 % block-bootstrap interval
    high: float | None = None
    note: str = ""  # definition in a sentence; shown on demand


class FigureGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Figures under a heading."""

    title: str
    figures: tuple[Figure, ...]


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence of the verdict, and which way it points."""

    text: str
    points: int  # 1 for an edge, -1 against it, 0 neither


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What it comes to, in words."""

    word: str  # edge | no edge | too few trades
    sentence: str
    reasons: tuple[Reason, ...]
    provisional: bool = False  # an edge that was not held against placebos and other costs yet


class BreakdownLine(msgspec.Struct, frozen=True, kw_only=True):
    """Trades of one kind."""

    label: str
    trades: int
    wins: int
    pnl_usd: float
    pnl_mean_usd: float
    costs_usd: float  # fees + slippage - funding received


class Breakdown(msgspec.Struct, frozen=True, kw_only=True):
    """All trades, split by one property: phase, score tier, exit reason, asset, hour, weekday, direction."""

    title: str
    lines: tuple[BreakdownLine, ...]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a score."""

    label: str
    points: float
    points_max: float
    text: str = ""  # from what it was made: "3 tests, the range of candles falls"


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """An input of a decision."""

    label: str
    text: str  # its value with its unit
    known_at: int | None = None  # s; none: the second itself
    threshold: str = ""  # what it was held against, with its unit
    met: bool | None = None


class WindowLine(msgspec.Struct, frozen=True, kw_only=True):
    """Flow of one window before a decision."""

    window_s: int
    spot_usd: float
    perp_usd: float
    z_spot: float
    z_perp: float
    gap: float
    gap_in_swings: float
    price_return: float
    z_return: float


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Why something was decided at the close of a second."""

    ts: int
    title: str  # "Entry: longs trapped, score 4.850 of 10"
    sentence: str
    score: float
    direction: int
    phase: str
    parts: tuple[Part, ...]
    inputs: tuple[Input, ...]
    windows: tuple[WindowLine, ...]
    blocked_by: tuple[str, ...] = ()


class TradeLine(msgspec.Struct, frozen=True, kw_only=True):
    """One trade."""

    number: int
    asset: str
    instrument: str
    direction: int  # 1 long, -1 short
    tier: int
    score: float
    phase: str  # of the reset machine at the decision
    decided_ts: int
    entry_ts: int
    exit_ts: int
    hold_s: int
    qty: float
    entry_price: float
    exit_price: float
    notional_usd: float
    pnl_usd: float
    pnl_share: float  # of the notional
    fees_usd: float
    slippage_usd: float
    funding_usd: float  # received
    mae_usd: float  # worst unrealised result while it was held, <= 0
    mfe_usd: float  # best, >= 0
    level: float | None  # the structure's border frozen at entry
    reason: str
    reason_words: str
    detail_s: int  # resolution of the series around it: 1 or 5 seconds
    entry_why: Why | None = None
    exit_why: Why | None = None


class AssetSeries(msgspec.Struct, frozen=True, kw_only=True):
    """An asset's charts.

    Columns of both packs: `ts` (start of the row), `open`, `high`, `low`, `close`, `spot_cvd`, `perp_cvd` (USD since the run's
    start, at the close), `open_interest` (base units), `score` (signed by its direction), `reset_deceleration`, `absorption`,
    `failed_breakdown`, `quality`. `base` covers the run in rows of `step_s`, and of a minute wherever a step holds seconds; its
    column `width` tells (s). `seconds` covers five minutes either side of each entry and exit. Missing seconds are missing.
    """

    asset: str
    instrument: str
    price_decimals: int  # that people read
    step_s: int
    base: Pack
    seconds: Pack


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """A span in which one side was trapped: the squeeze context."""

    asset: str
    start_s: int
    end_s: int
    direction: int
    phase: str  # IMBALANCED | RESET_A | RESET_B
    low: float | None = None  # the reset's range
    high: float | None = None


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """A calendar month's return."""

    year: int
    month: int
    total_return: float
    days: int


class Placebo(msgspec.Struct, frozen=True, kw_only=True):
    """A result among results that cannot know anything."""

    name: str  # shuffled | random
    title: str
    what: str  # how they were made, in a sentence
    measure: str  # what is compared: total return
    real: float
    values: tuple[float, ...]  # sorted
    p_value: float  # (1 + number at least as good) / (1 + number)
    note: str = ""


class Stress(msgspec.Struct, frozen=True, kw_only=True):
    """The same signals at other costs."""

    factor: float
    total_return: float
    sharpe: float | None
    trades: int
    costs_usd: float


class CostStress(msgspec.Struct, frozen=True, kw_only=True):
    """How much cost the edge bears."""

    lines: tuple[Stress, ...]
    break_even: float | None  # factor at which nothing is left; none: above the largest tried, or below 0
    note: str


class QualityDay(msgspec.Struct, frozen=True, kw_only=True):
    """One asset's day of rows."""

    day: dt.date
    seconds: int
    incomplete: int
    holes: int


class VenueLine(msgspec.Struct, frozen=True, kw_only=True):
    """One market that makes up an asset."""

    instrument: str
    weight: float
    seconds: int
    complete: int
    gaps: int


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How whole an asset's data was."""

    asset: str
    seconds_expected: int
    seconds: int
    incomplete: int
    days: tuple[QualityDay, ...]
    holes: tuple[tuple[int, int], ...]  # [start_s, end_s), the longest hundred
    venues: tuple[VenueLine, ...]


class ReceiptLine(msgspec.Struct, frozen=True, kw_only=True):
    """What proves a run, and how to have it again."""

    label: str
    text: str
    note: str = ""


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    run_id: str
    name: str  # short, for legends: "BTC 2026-01-01 to 2026-01-30"
    assets: tuple[str, ...]
    start_s: int
    end_s: int
    capital_usd: float
    entry_score: float | None = None  # points from which it enters: a line in the score's chart
    warnings: tuple[str, ...]
    verdict: Verdict
    headline: tuple[Figure, ...]
    groups: tuple[FigureGroup, ...]
    breakdowns: tuple[Breakdown, ...]
    months: tuple[Month, ...]
    trades: tuple[TradeLine, ...]
    series: tuple[AssetSeries, ...]
    bands: tuple[Band, ...]
    equity: Pack  # ts, equity (USD), drawdown (share, <= 0), holding (USD: buy and hold in equal parts)
    placebos: tuple[Placebo, ...]
    stress: CostStress | None
    quality: tuple[Quality, ...]
    receipt: tuple[ReceiptLine, ...]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A trade that one run made and another did not, or made otherwise."""

    asset: str
    entry_ts: int
    direction: int
    pnl_usd: tuple[float | None, ...]  # by run; none: not taken
    why: str  # what kept it from being taken, or what differs


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Runs side by side."""

    spec: tuple[tuple[str, tuple[str, ...]], ...]  # what was asked differently: (field, value by run)
    shared: int  # trades that all runs made alike
    differences: tuple[Difference, ...]


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    format: int = FORMAT
    title: str
    runs: tuple[RunPage, ...]
    comparison: Comparison | None = None


def pack(columns: Sequence[Series]) -> Pack:
    """Pack columns of one length: exact, and small where neighbours are alike.

    >>> pack([Series("ts", "s", 1, np.array([10, 11, 12]))]).count
    3
    """
    count = len(columns[0].values) if columns else 0
    data = b"".join(_leb128(np.diff(column.values, prepend=np.int64(0))) for column in columns)
    return Pack(
        count=count,
        columns=tuple(PackedColumn(name=c.name, unit=c.unit, scale=c.scale) for c in columns),
        data=base64.b64encode(zlib.compress(data, 9)).decode(),
    )


def _leb128(values: NDArray[np.int64]) -> bytes:
    """Write integers as zigzag LEB128: seven bits a byte, the lowest first."""
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    length = np.ones(len(values), np.int64)
    for bits in range(7, 64, 7):
        length += zigzag >= np.uint64(1) << np.uint64(bits)
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(length)))
    out = np.zeros(int(starts[-1]), np.uint8)
    for place in range(10):
        there = length > place
        part = (zigzag[there] >> np.uint64(7 * place)) & np.uint64(127)
        out[starts[:-1][there] + place] = part | np.where(length[there] > place + 1, np.uint64(128), np.uint64(0))
    return out.tobytes()
