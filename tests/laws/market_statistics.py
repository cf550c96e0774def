"""What a market's prints are like, in numbers: the statistic functions that real and simulated days are judged by.

A `Tape` is one market's prints; `seconds_of` gives its one-second grid. Definitions: an *order* is consecutive fills of
the same millisecond and side; *quote* is price times base (USD for inverse contracts); a *return* is the log change of
the last price of consecutive seconds, carried through empty ones, in basis points; *delta* is signed quote a second.
"""

import csv
import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Tape(NamedTuple):
    """Prints of one market, in order."""

    time_ms: np.ndarray  # int64
    price: np.ndarray  # float64
    quote: np.ndarray  # float64, price * base; contracts * contract value for inverse markets
    side: np.ndarray  # int64, +1 taker bought, -1 taker sold


class Seconds(NamedTuple):
    """One market on its grid of seconds, from the first print's to the last print's."""

    start: int
    fills: np.ndarray
    buys: np.ndarray  # fills
    quote: np.ndarray
    delta: np.ndarray
    close: np.ndarray


def shared_data(relative: str) -> Path | None:
    """Find a file of recorded data in a folder `shared/data` beside the repository, walking up; None where absent."""
    for parent in Path(__file__).resolve().parents:
        found = parent / "shared" / "data" / relative
        if found.exists():
            return found
    return None


def read_tape(path: Path, contract_usd: float = 0.0) -> Tape:
    """Read recorded trades: `trade_ms, price, qty, is_buyer_maker` or `timestamp, price, quantity, side`."""
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    if "trade_ms" in rows[0]:
        time_ms = np.array([int(row["trade_ms"]) for row in rows])
        qty = np.array([float(row["qty"]) for row in rows])
        side = np.array([-1 if row["is_buyer_maker"] in ("1", "true", "True") else 1 for row in rows])
    else:
        time_ms = np.array([int(row["timestamp"]) for row in rows])
        qty = np.array([float(row["quantity"]) for row in rows])
        side = np.array([1 if row["side"] == "buy" else -1 for row in rows])
    price = np.array([float(row["price"]) for row in rows])
    quote = qty * contract_usd if contract_usd else qty * price
    return Tape(time_ms, price, quote, side)


def seconds_of(tape: Tape) -> Seconds:
    """Put prints on the grid of seconds."""
    second = tape.time_ms // 1000
    start = int(second[0])
    index = (second - start).astype(np.int64)
    n = int(index.max()) + 1
    last = np.full(n, -1)
    last[index] = np.arange(index.size)  # the last assignment of a second stays
    last = np.maximum.accumulate(last)
    return Seconds(
        start,
        np.bincount(index, minlength=n),
        np.bincount(index, tape.side > 0, minlength=n),
        np.bincount(index, tape.quote, minlength=n),
        np.bincount(index, tape.quote * tape.side, minlength=n),
        tape.price[last],
    )


def returns_bp(close: np.ndarray) -> np.ndarray:
    """Return log changes of consecutive seconds in basis points."""
    return 1e4 * np.diff(np.log(close))


def kurtosis(x: np.ndarray) -> float:
    """Return the bias-corrected sample excess kurtosis."""
    n = x.size
    d = x - x.mean()
    g = (d**4).mean() / (d**2).mean() ** 2 - 3
    return float((n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * g + 6))


def acf(x: np.ndarray, lag: int) -> float:
    """Return the autocorrelation at a lag."""
    d = x - x.mean()
    return float((d[lag:] * d[:-lag]).sum() / (d * d).sum())


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Pearson's correlation."""
    return float(np.corrcoef(x, y)[0, 1])


def clustering(fills: np.ndarray) -> float:
    """Return variance over mean of the counts a second."""
    return float(fills.var(ddof=1) / fills.mean())


def orders_of(tape: Tape) -> tuple[np.ndarray, np.ndarray]:
    """Return the side and quote of each order."""
    new = np.ones(tape.side.size, bool)
    new[1:] = (np.diff(tape.time_ms) != 0) | (np.diff(tape.side) != 0)
    return tape.side[new], np.add.reduceat(tape.quote, np.flatnonzero(new))


def delta_link(seconds: Seconds) -> tuple[float, float]:
    """Return the correlation of delta and return of the same second, and the slope in bp per million of quote."""
    r, d = returns_bp(seconds.close), seconds.delta[1:]
    covariance = float(((r - r.mean()) * (d - d.mean())).mean())
    return correlation(d, r), 1e6 * covariance / float(d.var())


def top_share(quote: np.ndarray) -> float:
    """Return the share of quote that the largest 1 % of fills carry."""
    ordered = np.sort(quote)[::-1]
    return float(ordered[: max(1, round(quote.size / 100))].sum() / ordered.sum())


def burst_sides(seconds: Seconds, least: int = 200) -> np.ndarray:
    """Return, for each second with at least `least` fills, the share of the fills on the larger side."""
    big = seconds.fills >= least
    share = seconds.buys[big] / seconds.fills[big]
    return np.maximum(share, 1 - share)


def common(a: Seconds, b: Seconds, skip: int = 5) -> tuple[Seconds, Seconds]:
    """Cut two grids to their common part without its first seconds."""
    start = max(a.start, b.start) + skip
    end = min(a.start + a.fills.size, b.start + b.fills.size)

    def part(x: Seconds) -> Seconds:
        return Seconds(start, *(column[start - x.start : end - x.start] for column in x[1:]))

    return part(a), part(b)


class Pair(NamedTuple):
    """Two markets in the same seconds."""

    volume_ratio: float
    trade_ratio: float
    return_correlation: float
    delta_correlation: float
    volume_correlation: float
    basis_mean: float
    basis_std: float
    basis_ar1: float


def pair(first: Seconds, second: Seconds, skip: int = 5) -> Pair:
    """Compare two markets; the basis is the first over the second."""
    a, b = common(first, second, skip)
    basis = 1e4 * np.log(a.close / b.close)
    return Pair(
        float(a.quote.sum() / b.quote.sum()),
        float(a.fills.sum() / b.fills.sum()),
        correlation(returns_bp(a.close), returns_bp(b.close)),
        correlation(a.delta, b.delta),
        correlation(a.quote, b.quote),
        float(basis.mean()),
        float(basis.std()),
        acf(basis, 1),
    )


def opposite_share(first: np.ndarray, second: np.ndarray, window: int = 300) -> float:
    """Return the share of windows over which two deltas sum to opposite signs."""
    n = first.size // window * window
    a = first[:n].reshape(-1, window).sum(1)
    b = second[:n].reshape(-1, window).sum(1)
    return float((a * b < 0).mean())
