"""An asset second by second, as people look at it: its row, its flows in swings, its score with the parts.

Everything comes from the kernel that trades: rows go through `squeeze.scan`, and what is shown is read off its state. This
module knows no bus and no store; whoever feeds it the same rows gets the same events.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from squeezecore import squeeze
from squeezecore.adapters import operations
from squeezecore.adapters.accounts import Swap
from squeezecore.engine import Engine
from squeezecore.market import BASIS_SCALE, CENTS, DAY_S, FUNDING_SCALE, PPM, WARMUP_S, Instrument, Rows, cut
from squeezecore.spec import Costs, Limits
from squeezecore.squeeze import F_LONG, F_SHORT, F_WARM, Features, SqueezeParams

WINDOWS_S = (300, 900, 3600, 14_400)  # that a line shows
BEFORE_S = WARMUP_S + 3600  # rows before a second that make its state the same from wherever one begins
SPARK_MINUTES = 60
NAMES = (
    "asset", "close", "chg24h_pct", "z_spot", "z_perp", "oi_chg_pct", "funding_8h_bp", "basis_bp", "phase", "direction",
    "score", "quality", "position_usd", "pnl_usd",
)  # fmt: skip
ROW_NAMES = (
    "ts", "open", "high", "low", "close", "buy_qty", "sell_qty", "mark", "spot_delta", "perp_delta", "spot_volume",
    "perp_volume", "open_interest", "oi_known_at", "funding_rate_8h", "basis_bps", "quality", "score", "direction", "phase",
    "warm", "blocked_by", "parts", "reset_low", "reset_high",
)  # fmt: skip
SCHEMA: dict[str, Any] = {"names": NAMES, "windows_s": WINDOWS_S}
_ROW_COLUMNS = Rows._fields[: Rows._fields.index("quality_ppm")]
_PLACES = [squeeze.WINDOWS.index(window) for window in WINDOWS_S]


class Held(NamedTuple):
    """What the account holds of an asset, USD."""

    position_usd: float
    pnl_usd: float


class Schedule:
    """Which parameters hold when."""

    def __init__(self, first: SqueezeParams, swaps: Sequence[Swap] = ()) -> None:
        self._first = first
        self._swaps = sorted(swaps, key=lambda swap: swap.from_ts)

    def at(self, ts: int) -> SqueezeParams:
        """Return the parameters of a second."""
        held = self._first
        for swap in self._swaps:
            if swap.from_ts > ts:
                break
            held = swap.params
        return held

    def parts(self, rows: Rows) -> Iterator[tuple[SqueezeParams, Rows]]:
        """Cut a block where other parameters begin to hold."""
        borders = sorted({0, len(rows.ts), *(int(rows.ts.searchsorted(swap.from_ts)) for swap in self._swaps)})
        for start, end in itertools.pairwise(borders):
            yield self.at(int(rows.ts[start])), cut(rows, start, end)


class Lane:
    """One asset: the kernel's state and the little past that a line compares with."""

    def __init__(self, asset: str, instrument: Instrument) -> None:
        self.asset, self.instrument = asset, instrument
        self.state = squeeze.initial(SqueezeParams())
        self._params: SqueezeParams | None = None
        self._engine: Engine
        self._close = np.zeros(DAY_S + 1, np.int64)  # by second modulo its length; 0: no row
        self._interest = np.zeros(WINDOWS_S[-1] + 1, np.int64)
        self._spark: dict[int, float] = {}  # minute → the score furthest from zero, with the direction's sign
        self._line: list[Any] = [asset, *[None] * (len(NAMES) - 1)]
        scale = dict.fromkeys(_ROW_COLUMNS, 1)
        scale |= dict.fromkeys(operations.PRICES & scale.keys(), 10**instrument.price_decimals)
        scale |= dict.fromkeys(operations.QUANTITIES & scale.keys(), 10**instrument.qty_decimals)
        scale |= dict.fromkeys(operations.USD_COLUMNS.keys() & scale.keys(), CENTS)
        self._scale = scale | {"funding_rate_8h": FUNDING_SCALE, "basis_bps": BASIS_SCALE}
        self.mark = 0  # price scale

    @property
    def last_ts(self) -> int:
        """Return the newest second that was taken; 0 before the first."""
        return self.state.last_ts

    def warm(self, schedule: Schedule, rows: Rows) -> None:
        """Take rows whose events nobody needs."""
        if not len(rows.ts):
            return
        self._keep(rows)
        for params, block in schedule.parts(rows):
            self.state, features = squeeze.scan(params, self.state, block)
            self._score(features)
        self.mark = int(rows.mark[-1])

    def take(self, schedule: Schedule, row: Rows) -> dict[str, Any]:
        """Take one second; return its row in units people use, with what the kernel says of it."""
        ts = int(row.ts[0])
        params = schedule.at(ts)
        if params is not self._params:
            self._params = params
            self._engine = Engine(params, {self.asset: self.instrument}, Costs(), Limits())
        self._keep(row)
        self.state, features = squeeze.scan(params, self.state, row)
        self._score(features)
        self.mark = int(row.mark[0])
        told = self._engine.describe(self.asset, features, 0)
        flags = int(features.flags[0])
        shown: dict[str, Any] = {}
        for name in _ROW_COLUMNS:
            value, scale = int(getattr(row, name)[0]), self._scale[name]
            shown[name] = value if scale == 1 and name in ("ts", "oi_known_at", "oi_interval_s") else value / scale
        del shown["oi_interval_s"]
        price = 10**self.instrument.price_decimals
        shown |= {
            "quality": int(row.quality_ppm[0]) / PPM,
            "score": told.score_milli / 1000,
            "direction": int(told.direction),
            "phase": told.phase,
            "warm": bool(flags & F_WARM),
            "blocked_by": squeeze.entry_blockers(flags, told.score_milli, params),
            "parts": {name: value / 1000 for name, value in msgspec.structs.asdict(told.parts).items()},
            "reset_low": told.reset_low / price if told.reset_low else None,
            "reset_high": told.reset_high / price if told.reset_high else None,
        }
        self._line = self._line_of(ts, shown)
        return shown

    def line(self, ts: int, held: Held | None) -> list[Any]:
        """Return the board's line at second `ts`; without a row of that second its quality is zero."""
        line = list(self._line)
        if line[1] is not None and self.last_ts != ts:
            line[NAMES.index("quality")] = 0.0
        line[-2:] = (None, None) if held is None else (round(held.position_usd, 2), round(held.pnl_usd, 2))
        return line

    def spark(self) -> list[float | None]:
        """Return the last hour's scores, one a minute, the newest last; None where a minute had no row."""
        last = self.last_ts // 60
        return [self._spark.get(minute) for minute in range(last - SPARK_MINUTES + 1, last + 1)]

    # --- leaves ---

    def _keep(self, rows: Rows) -> None:
        """Remember closes and open interest; a second without a row leaves a zero."""
        ts, last, before = rows.ts, int(rows.ts[-1]), self.last_ts
        usable = np.where(rows.oi_known_at <= ts + 1, rows.open_interest, 0)  # a value is never used before it is known
        for ring, values in ((self._close, rows.close), (self._interest, usable)):
            size = len(ring)
            fits = int(ts.searchsorted(last - size + 1))
            ring[np.arange(max(before + 1, last - size + 1), last + 1) % size] = 0
            ring[ts[fits:] % size] = values[fits:]

    def _score(self, features: Features) -> None:
        last = int(features.ts[-1]) // 60
        first = int(features.ts.searchsorted((last - SPARK_MINUTES + 1) * 60))
        ts, flags = features.ts[first:].tolist(), features.flags[first:].tolist()
        for second, bits, milli in zip(ts, flags, features.score_milli[first:].tolist(), strict=True):
            signed = (1 if bits & F_LONG else -1 if bits & F_SHORT else 0) * milli / 1000
            if abs(signed) >= abs(self._spark.get(second // 60, 0.0)):
                self._spark[second // 60] = signed
        for minute in [minute for minute in self._spark if minute <= last - SPARK_MINUTES]:
            del self._spark[minute]

    def _line_of(self, ts: int, row: dict[str, Any]) -> list[Any]:
        spot, perp = squeeze.flow_z(self.state)
        return [
            self.asset,
            row["close"],
            _change_pct(self._close, ts, DAY_S),
            [_rounded(spot[place]) for place in _PLACES],
            [_rounded(perp[place]) for place in _PLACES],
            [_change_pct(self._interest, ts, window) for window in WINDOWS_S],
            _rounded(row["funding_rate_8h"] * 10_000),
            _rounded(row["basis_bps"]),
            row["phase"] if row["warm"] else None,
            row["direction"],
            row["score"],
            row["quality"],
            None,
            None,
        ]


def _rounded(value: float) -> float | None:
    """Cut a number to thousandths; what is not known stays so.

    >>> _rounded(1.23456), _rounded(float("nan"))
    (1.235, None)
    """
    return None if math.isnan(value) else round(float(value), 3)


def _change_pct(ring: np.ndarray[Any, np.dtype[np.int64]], ts: int, window_s: int) -> float | None:
    now, then = int(ring[ts % len(ring)]), int(ring[(ts - window_s) % len(ring)])
    return round((now / then - 1) * 100, 3) if now > 0 and then > 0 else None


def seconds_of(rows: Rows) -> Iterator[tuple[int, Rows]]:
    """Yield a block's seconds one by one."""
    for at, ts in enumerate(rows.ts.tolist()):
        yield ts, cut(rows, at, at + 1)
