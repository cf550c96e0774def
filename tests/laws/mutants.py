"""Deliberate look-ahead between the rows and the score, each a fault that backtests really had.

A mutant stands where the honest path stands: facts in, what is said about every second out. Some rewrite columns before
the kernel sees them, some rewrite what it said. The prefix test must catch each, and the honest path must pass it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from laws.squeeze_worlds import Facts, rows_of, spread, with_open_interest
from squeezecore.market import Rows, cut
from squeezecore.squeeze import SqueezeParams, explain_second, initial, scan

Said = dict[str, np.ndarray]
Path = Callable[[Facts, int], tuple[Said, dict[str, Any]]]


def _path(
    columns: Callable[[Facts], Rows] = rows_of, after: Callable[[Said, Rows], Said] = lambda said, _: said
) -> Path:
    """Make the way from facts to what is said of each second before `end`, and to the reasons of the last one."""

    def run(facts: Facts, end: int) -> tuple[Said, dict[str, Any]]:
        rows = columns(facts)
        params = SqueezeParams()
        _, features = scan(params, initial(params), rows)
        said = {name: column[:end] for name, column in after(spread(features), rows).items()}
        return said, explain_second(params, cut(rows, 0, end))

    return run


def _on_rows(change: Callable[[Rows], dict[str, np.ndarray]]) -> Path:
    """Falsify some columns of honest rows."""

    def columns(facts: Facts) -> Rows:
        rows = rows_of(facts)
        return rows._replace(**change(rows))

    return _path(columns)


def _on_output(change: Callable[[Said, Rows], dict[str, np.ndarray]]) -> Path:
    """Falsify some of what an honest scan said."""
    return _path(after=lambda said, rows: {**said, **change(said, rows)})


def earlier(column: np.ndarray, by: int = 1) -> np.ndarray:
    """Shift a column so that each second holds what comes `by` seconds later; the end repeats its last value."""
    return np.concatenate([column[by:], np.repeat(column[-1:], by, axis=0)])


def _centred(column: np.ndarray, width: int) -> np.ndarray:
    """Average a column over a window that lies half in the future."""
    padded = np.pad(column.astype(float), width // 2, mode="edge")
    total = np.concatenate([[0.0], np.cumsum(padded)])
    return np.rint((total[width:] - total[:-width]) / width)


def _per(seconds: int, ts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each period of so many seconds, and every row's period."""
    period = ts // seconds
    first = np.flatnonzero(np.concatenate([[True], period[1:] != period[:-1]]))
    return first, np.cumsum(np.concatenate([[False], period[1:] != period[:-1]]))


def _open_interest_by_event(facts: Facts) -> Rows:
    rows = with_open_interest(facts, facts.open_interest.event_ts)
    return rows._replace(oi_known_at=np.minimum(rows.oi_known_at, rows.ts))  # and lies about when it was known


def _minute_at_its_start(rows: Rows) -> dict[str, np.ndarray]:
    first, _ = _per(60, rows.ts)
    out = {}
    for name in ("spot_delta", "perp_delta"):
        column = np.zeros(len(rows.ts), np.int64)
        column[first] = np.add.reduceat(getattr(rows, name), first)
        out[name] = column
    return out


def _candle_before_its_close(rows: Rows) -> dict[str, np.ndarray]:
    first, of = _per(300, rows.ts)
    return {"high": np.maximum.reduceat(rows.high, first)[of], "low": np.minimum.reduceat(rows.low, first)[of]}


def _whole_sample_scale(rows: Rows) -> dict[str, np.ndarray]:
    return {
        name: np.rint(getattr(rows, name) / getattr(rows, name).std() * 1e6).astype(np.int64)
        for name in ("spot_delta", "perp_delta")
    }


def _trend_removed(rows: Rows) -> dict[str, np.ndarray]:
    slope = (rows.close[-1] / rows.close[0]) ** (1 / len(rows.ts))
    factor = slope ** -np.arange(len(rows.ts))
    return {name: np.rint(getattr(rows, name) * factor).astype(np.int64) for name in ("open", "high", "low", "close")}


def _silence_interpolated(rows: Rows) -> dict[str, np.ndarray]:
    moved = np.concatenate([[0], np.flatnonzero(np.diff(rows.close)) + 1])
    return {"close": np.rint(np.interp(np.arange(len(rows.ts)), moved, rows.close[moved])).astype(np.int64)}


def _warm_by_the_end(said: Said, rows: Rows) -> dict[str, np.ndarray]:
    """Use the last swings for every second, as a baseline taken from the whole sample would."""
    return {"swings": np.repeat(said["swings"][-1:], len(rows.ts), axis=0)}


def _range_frozen_later(said: Said, rows: Rows) -> dict[str, np.ndarray]:
    """Widen each reset's range by what prices did after it was frozen."""
    low = said["reset"][:, 0]
    lowest = np.minimum.accumulate(rows.low[::-1])[::-1]
    reset = said["reset"].copy()
    reset[:, 0] = np.where(low > 0, np.minimum(low, lowest), 0)
    return {"reset": reset}


def _swing_of_the_minute_to_come(said: Said, rows: Rows) -> dict[str, np.ndarray]:
    _, of = _per(60, rows.ts + 1)
    last = np.searchsorted(of, of, "right") - 1
    return {"swings": said["swings"][np.minimum(last + 1, len(of) - 1)]}


HONEST = _path()
MUTANTS: dict[str, Path] = {
    "open interest shifted a minute early": _on_rows(lambda r: {"open_interest": earlier(r.open_interest, 60)}),
    "open interest used before it was known": _path(_open_interest_by_event),
    "open interest filled backwards": _on_rows(lambda r: {"open_interest": np.maximum(r.open_interest, earlier(r.open_interest, 600))}),
    "centred flow window": _on_rows(lambda r: {"spot_delta": _centred(r.spot_delta, 301).astype(np.int64)}),
    "flow window that includes the next second": _on_rows(
        lambda r: {"spot_delta": earlier(r.spot_delta), "perp_delta": earlier(r.perp_delta)}
    ),
    "return to the next close": _on_rows(lambda r: {"close": earlier(r.close)}),
    "candle known before its close": _on_rows(_candle_before_its_close),
    "minute's flow labelled at its start": _on_rows(_minute_at_its_start),
    "flows scaled by the whole sample's deviation": _on_rows(_whole_sample_scale),
    "trend of the whole sample removed": _on_rows(_trend_removed),
    "silent seconds interpolated to the next trade": _on_rows(_silence_interpolated),
    "quality of seconds repaired later": _on_rows(lambda r: {"quality_ppm": np.maximum(r.quality_ppm, earlier(r.quality_ppm, 100))}),
    "swing of the minute to come": _on_output(_swing_of_the_minute_to_come),
    "warm-up that knows the whole sample": _on_output(_warm_by_the_end),
    "reset range frozen at the end": _on_output(_range_frozen_later),
    "score smoothed on both sides": _on_output(
        lambda said, _: {"score_milli": _centred(said["score_milli"], 5).astype(np.int16)}
    ),
    "flags of the next second": _on_output(lambda said, _: {"flags": earlier(said["flags"])}),
    "peak of the score, marked when it happens": _on_output(
        lambda said, _: {"score_milli": np.where(said["score_milli"] >= earlier(said["score_milli"]), said["score_milli"], 0)}
    ),
}  # fmt: skip
