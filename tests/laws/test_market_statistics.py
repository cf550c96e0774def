"""The statistic functions reproduce the figures measured on recorded windows: 1 % or one unit of the last digit."""

import numpy as np
import pytest

from laws.market_statistics import (
    Seconds,
    Tape,
    acf,
    clustering,
    common,
    correlation,
    delta_link,
    kurtosis,
    orders_of,
    pair,
    read_tape,
    returns_bp,
    seconds_of,
    shared_data,
    top_share,
)

FOLDER = "history/trades/"
# name: (file, USD a contract, [(figure, value, unit of its last digit)])
PRINTED = {
    "spot": ("binance.spot.btcusdt.20240808.trades.csv.gz", 0.0, {
        "seconds": (346, 1), "fills/s": (28.20, 0.01), "orders/s": (9.37, 0.01), "fills/order": (3.01, 0.01),
        "q50": (9, 1), "q90": (50, 1), "q99": (282, 1), "max": (950, 1), "clustering": (210, 1), "empty": (0.01, 0.01),
        "quote/s": (37_706, 1), "size q50": (37, 1), "size q95": (6_173, 1), "size q99": (19_994, 1),
        "size q99.9": (47_097, 1), "order q50": (215, 1), "order q99": (73_045, 1), "top": (0.22, 0.01),
        "fill sign 1": (0.78, 0.01), "fill sign 10": (0.60, 0.01), "fill sign 100": (0.23, 0.01),
        "order sign 1": (0.36, 0.01), "order sign 10": (0.18, 0.01), "order sign 100": (0.04, 0.01),
        "return std": (1.12, 0.01), "kurtosis": (22, 1), "zero returns": (0.29, 0.01), "link": (0.68, 0.01),
        "slope": (8, 1), "delta ACF": (-0.20, 0.01),
    }),
    "perp": ("binance.linear.btcusdt.20240808.trades.csv.gz", 0.0, {
        "seconds": (343, 1), "fills/s": (62.08, 0.01), "orders/s": (15.83, 0.01), "fills/order": (3.92, 0.01),
        "q50": (26, 1), "q90": (101, 1), "q99": (915, 1), "max": (1_647, 1), "clustering": (378, 1),
        "empty": (0.0, 0.01), "quote/s": (435_598, 1), "size q50": (989, 1), "size q95": (29_956, 1),
        "size q99": (70_697, 1), "size q99.9": (363_743, 1), "order q50": (1_852, 1), "order q99": (438_463, 1),
        "top": (0.31, 0.01), "fill sign 1": (0.79, 0.01), "fill sign 10": (0.58, 0.01), "fill sign 100": (0.25, 0.01),
        "order sign 1": (0.20, 0.01), "order sign 10": (0.12, 0.01), "order sign 100": (0.02, 0.01),
        "return std": (1.21, 0.01), "kurtosis": (23, 1), "zero returns": (0.24, 0.01), "link": (0.60, 0.01),
        "slope": (0.67, 0.01), "delta ACF": (-0.26, 0.01),
    }),
    "coin": ("binance.inverse.btcusd_perp.20240808.trades.csv.gz", 100.0, {
        "seconds": (343, 1), "fills/s": (6.66, 0.01), "orders/s": (2.08, 0.01), "fills/order": (3.20, 0.01),
        "q50": (1, 1), "q90": (14, 1), "q99": (114, 1), "max": (232, 1), "clustering": (71, 1), "empty": (0.41, 0.01),
        "quote/s": (24_198, 1), "size q50": (400, 1), "size q95": (18_900, 1), "size q99": (47_535, 1),
        "size q99.9": (126_048, 1), "order q50": (1_500, 1), "order q99": (176_466, 1), "top": (0.20, 0.01),
        "fill sign 1": (0.86, 0.01), "fill sign 10": (0.43, 0.01), "fill sign 100": (-0.05, 0.01),
        "order sign 1": (0.57, 0.01), "order sign 10": (0.12, 0.01), "order sign 100": (-0.02, 0.01),
        "return std": (1.13, 0.01), "kurtosis": (21, 1), "zero returns": (0.53, 0.01), "link": (0.74, 0.01),
        "slope": (9.6, 0.1),
    }),
    "perp 2024-07-19": ("binance.linear.btcusdt.20240719.trades.csv.gz", 0.0, {
        "seconds": (300, 1), "fills/s": (32.48, 0.01), "orders/s": (10.51, 0.01), "fills/order": (3.09, 0.01),
        "clustering": (65, 1), "quote/s": (217_951, 1), "size q50": (830, 1), "size q99.9": (223_887, 1),
        "return std": (0.60, 0.01), "zero returns": (0.34, 0.01), "link": (0.42, 0.01), "slope": (0.6, 0.1),
    }),
}  # fmt: skip


def recorded(name: str) -> Tape:
    file, contract_usd, _ = PRINTED[name]
    path = shared_data(FOLDER + file)
    if path is None:
        pytest.skip(f"recorded data is absent: no folder shared/data with {FOLDER}{file} above the tests")
    return read_tape(path, contract_usd)


def figures(tape: Tape) -> dict[str, float]:
    seconds = seconds_of(tape)
    lasted = (tape.time_ms[-1] - tape.time_ms[0]) / 1000
    sides, sizes = orders_of(tape)
    r = returns_bp(seconds.close)
    link, slope = delta_link(seconds)
    found = {
        "seconds": lasted, "fills/s": tape.side.size / lasted, "orders/s": sides.size / lasted,
        "fills/order": tape.side.size / sides.size, "clustering": clustering(seconds.fills),
        "empty": (seconds.fills == 0).mean(), "quote/s": seconds.quote.mean(), "top": top_share(tape.quote),
        "return std": r.std(ddof=1), "kurtosis": kurtosis(r), "zero returns": (r == 0).mean(), "link": link,
        "slope": slope, "delta ACF": acf(seconds.delta, 1), "max": seconds.fills.max(),
    }  # fmt: skip
    found |= {f"q{q}": np.quantile(seconds.fills, q / 100) for q in (50, 90, 99)}
    found |= {f"size q{q}": np.quantile(tape.quote, float(q) / 100) for q in ("50", "95", "99", "99.9")}
    found |= {f"order q{q}": np.quantile(sizes, q / 100) for q in (50, 99)}
    found |= {f"fill sign {lag}": acf(tape.side, lag) for lag in (1, 10, 100)}
    return found | {f"order sign {lag}": acf(sides, lag) for lag in (1, 10, 100)}


@pytest.mark.parametrize("name", PRINTED)
def test_recorded_windows_give_the_printed_figures(name):
    found = figures(recorded(name))
    wrong = {
        key: (found[key], value)
        for key, (value, unit) in PRINTED[name][2].items()
        if abs(found[key] - value) > max(1.001 * unit, 0.01 * abs(value))
    }
    assert not wrong


@pytest.mark.parametrize(
    ("first", "second", "printed"),
    [
        ("perp", "spot", (11.4, 2.2, 0.92, 0.59, 0.79, -3.7, 0.54, 0.60)),
        ("coin", "perp", (0.056, 0.11, 0.82, 0.70, 0.88, 1.0, 0.76, 0.57)),
    ],
)
def test_recorded_pairs_give_the_printed_figures(first, second, printed):
    found = pair(seconds_of(recorded(first)), seconds_of(recorded(second)))
    units = (0.1, 0.1, 0.01, 0.01, 0.01, 0.1, 0.01, 0.01)
    if first == "coin":
        units = (0.001, 0.01, 0.01, 0.01, 0.01, 0.1, 0.01, 0.01)
    for value, expected, unit in zip(found, printed, units, strict=True):
        assert value == pytest.approx(expected, abs=1.001 * unit, rel=0.01)


def test_flows_of_the_recorded_window_point_in_opposite_directions():
    spot, perp = common(seconds_of(recorded("spot")), seconds_of(recorded("perp")))
    assert spot.delta.sum() / 1e6 == pytest.approx(-1.14, abs=0.01)
    assert perp.delta.sum() / 1e6 == pytest.approx(4.88, abs=0.01)


def test_a_grid_counts_from_the_first_second_to_the_last():
    tape = Tape(
        np.array([10_100, 10_100, 10_900, 13_000]),
        np.array([100.0, 101.0, 102.0, 103.0]),
        np.array([5.0, 6.0, 7.0, 8.0]),
        np.array([1, 1, -1, 1]),
    )
    seconds = seconds_of(tape)
    assert (seconds.start, seconds.fills.tolist(), seconds.delta.tolist()) == (10, [3, 0, 0, 1], [4.0, 0.0, 0.0, 8.0])
    assert seconds.close.tolist() == [102.0, 102.0, 102.0, 103.0]
    sides, sizes = orders_of(tape)
    assert (sides.tolist(), sizes.tolist()) == ([1, -1, 1], [11.0, 7.0, 8.0])


def test_a_pair_is_compared_in_common_seconds_only():
    def ramp(start: int) -> Seconds:
        x = np.arange(start, start + 20)
        return Seconds(start, x, x, x * 1.0, x * 1.0, x * 1.0)

    a, b = common(ramp(0), ramp(7), skip=2)
    assert (a.start, a.fills.tolist()) == (9, list(range(9, 20)))
    assert a.fills.tolist() == b.fills.tolist()
    assert correlation(a.delta, b.delta) == pytest.approx(1.0)
