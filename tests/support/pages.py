"""A page as a backtest would fill it: a simulated market's rows, and figures that are plausible and nothing more.

Only the series are true to their rows (the tests read them back); trades stand where the market moved, their reasons and
the statistics are made up so that every part of a page has something to show.
"""

from __future__ import annotations

import datetime as dt
import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from squeezecore import simulator
from squeezecore.adapters import page
from squeezecore.market import DAY_S, Rows, concat, cut
from squeezecore.spec import day_start_s

START = dt.date(2026, 1, 3)
CAPITAL_USD = 100_000.0
PRICE_SCALE = 1_000  # of the simulated instruments
HOLE = (9 * 3_600 + 1_800, 9 * 3_600 + 1_800 + 420)  # s of the second day that are missing
PHASES = ("IMBALANCED", "RESET_A", "RESET_B")


class Sample(NamedTuple):
    """A page, and the columns that its charts must show, by asset."""

    page: page.Page
    columns: dict[str, dict[str, NDArray[np.float64]]]


@functools.cache
def sample(
    *, days: int = 3, assets: tuple[str, ...] = ("BTC",), trades_a_day: int = 5, runs: int = 1, step_s: int = 60
) -> Sample:
    """Make a page of one or several runs; without trades for `trades_a_day=0`, in steps of `step_s` away from trades."""
    markets = {asset: _market(asset, days) for asset in assets}
    made = tuple(_run(markets, days, trades_a_day, number, step_s) for number in range(runs))
    title = "Squeeze backtest" if runs == 1 else f"Comparison of {runs} runs"
    return Sample(
        page.Page(title=title, runs=made, comparison=_comparison(made) if runs > 1 else None),
        {asset: market.columns for asset, market in markets.items()},
    )


class _Market(NamedTuple):
    asset: str
    rows: Rows
    columns: dict[str, NDArray[np.float64]]  # by second
    packed: dict[str, tuple[str, int, NDArray[np.int64]]]  # unit, scale, values


@functools.cache
def _market(asset: str, days: int) -> _Market:
    world = simulator.WorldSpec(seed=11, start=START, days=days, assets=(asset,))
    rows = concat([day.rows for day in simulator.simulate_rows(world, asset)])
    if days > 1:  # a hole, so that the page has one to show
        start = day_start_s(START) + DAY_S
        first, end = np.searchsorted(rows.ts, [start + HOLE[0], start + HOLE[1]])
        rows = concat([cut(rows, 0, int(first)), cut(rows, int(end), len(rows.ts))])
    rng = np.random.default_rng(len(asset))
    n = len(rows.ts)
    candle = rows.ts // 300
    lot = np.unique(candle, return_inverse=True)[1]
    held = np.convolve(rng.random(lot[-1] + 1) < 0.05, np.ones(6))[: lot[-1] + 1] > 0
    direction = np.sign(rng.standard_normal(lot[-1] // 6 + 1))[lot // 6].astype(np.int64)
    on = held[lot]
    parts = {
        "reset_deceleration": np.where(on, rng.integers(0, 3_200, lot[-1] + 1)[lot], 0),
        "absorption": np.where(on, (rng.integers(0, 4, lot[-1] + 1) * 600)[lot], 0),
        "failed_breakdown": np.where(on, (rng.integers(0, 3, lot[-1] + 1) * 700)[lot], 0),
    }
    bias = np.where(on, rng.integers(0, 1_500, n // 60 + 1)[np.arange(n) // 60], 0)
    packed = {
        **{name: ("USDT", PRICE_SCALE, getattr(rows, name)) for name in ("open", "high", "low", "close")},
        "spot_cvd": ("USD", 1, np.cumsum(rows.spot_delta) // 100),
        "perp_cvd": ("USD", 1, np.cumsum(rows.perp_delta) // 100),
        "open_interest": (asset, 10, rows.open_interest // 10**7),
        "score": ("points", 1_000, direction * (sum(parts.values()) + bias)),
        **{name: ("points", 1_000, values) for name, values in parts.items()},
        "quality": ("share", 1_000, rows.quality_ppm // 1_000),
    }
    packed = {name: (unit, scale, values.astype(np.int64)) for name, (unit, scale, values) in packed.items()}
    columns = {name: values / scale for name, (_, scale, values) in packed.items()}
    return _Market(asset, rows, {"ts": rows.ts.astype(np.float64), **columns}, packed)


def _packed(
    market: _Market,
    chosen: NDArray[np.int64],
    ts: NDArray[np.int64],
    first: NDArray[np.int64],
    width: NDArray[np.int64],
) -> page.Pack:
    """Pack rows that end at `chosen` and begin at `first`: opens from the first, extremes of all, the rest at the close."""
    series = [page.Series("ts", "s", 1, ts), page.Series("width", "s", 1, width)]
    for name, (unit, scale, values) in market.packed.items():
        if name == "open":
            column = values[first]
        elif name in ("high", "low"):
            best = np.maximum if name == "high" else np.minimum
            column = best.reduceat(values, first)[: len(first)] if len(first) else values[:0]
        else:
            column = values[chosen]
        series.append(page.Series(name, unit, scale, column))
    return page.pack(series)


def _base(market: _Market, trades: list[page.TradeLine], step_s: int) -> page.Pack:
    """All rows in steps, in minutes where a step holds seconds near a trade."""
    ts = market.rows.ts
    fine = np.isin(ts // step_s, ts[_near(market, trades)] // step_s)
    width = np.where(fine, 60, step_s)
    begins = ts // width * width
    first = np.flatnonzero(np.diff(begins, prepend=-1))
    last = np.append(first[1:], len(ts)) - 1
    return _packed(market, last, begins[first], first, width[first])


def _near(market: _Market, trades: list[page.TradeLine]) -> NDArray[np.bool_]:
    """Tell which seconds lie within five minutes of an entry or an exit."""
    near = np.zeros(len(market.rows.ts), np.bool_)
    for trade in trades:
        for at in (trade.entry_ts, trade.exit_ts):
            first, end = np.searchsorted(market.rows.ts, [at - 300, at + 301])
            near[first:end] = True
    return near


def _seconds(market: _Market, trades: list[page.TradeLine]) -> page.Pack:
    """Every second within five minutes of an entry or an exit."""
    chosen = np.flatnonzero(_near(market, trades))
    series = [page.Series("ts", "s", 1, market.rows.ts[chosen])]
    series += [page.Series(name, unit, scale, v[chosen]) for name, (unit, scale, v) in market.packed.items()]
    return page.pack(series)


def _trades(markets: dict[str, _Market], days: int, trades_a_day: int, run: int) -> list[page.TradeLine]:
    rng = np.random.default_rng(100 + run // 2)  # runs in pairs share most trades
    skipped = np.random.default_rng(run)
    out: list[page.TradeLine] = []
    for at in sorted(rng.integers(3_600, days * DAY_S - 3 * 3_600, days * trades_a_day)):
        market = markets[list(markets)[int(rng.integers(0, len(markets)))]]
        rows = market.rows
        i = int(np.searchsorted(rows.ts, day_start_s(START) + at))
        j = min(len(rows.ts) - 1, i + int(rng.integers(240, 4_800)))
        entry, exit_ = int(rows.open[i]) / PRICE_SCALE, int(rows.open[j]) / PRICE_SCALE
        direction = 1 if (exit_ > entry) == (rng.random() < 0.56) else -1
        if run % 2 and skipped.random() < 0.15:
            continue
        path = direction * (rows.close[i:j] / PRICE_SCALE - entry)
        tier = int(rng.choice([1, 2, 3], p=[0.78, 0.17, 0.05]))
        qty = round(float(rng.uniform(0.2, 1.2)) * tier * 60_000 / entry, 3)
        notional = qty * entry
        fees, slippage, funding = notional * 9e-4, notional * float(rng.uniform(1e-4, 3e-4)), 0.0
        pnl = qty * direction * (exit_ - entry) - fees + funding
        score = float(rng.uniform(4.0, 4.2) + (tier - 1) * 0.9)
        phase = str(rng.choice(["RESET_A", "RESET_B", "IMBALANCED"]))
        reason, words = list(REASONS.items())[int(rng.integers(0, len(REASONS)))]
        ts = int(rows.ts[i])
        out.append(
            page.TradeLine(
                number=len(out) + 1, asset=market.asset, instrument=f"binance:{market.asset}-USDT-PERP", direction=direction,
                tier=tier, score=score, phase=phase, decided_ts=ts - 1, entry_ts=ts, exit_ts=int(rows.ts[j]),
                hold_s=int(rows.ts[j]) - ts, qty=qty, entry_price=entry, exit_price=exit_, notional_usd=notional, pnl_usd=pnl,
                pnl_share=pnl / notional, fees_usd=fees, slippage_usd=slippage, funding_usd=funding,
                mae_usd=min(0.0, float(path.min()) * qty), mfe_usd=max(0.0, float(path.max()) * qty),
                level=round(entry * (1 - direction * 0.006), 1), reason=reason, reason_words=words, detail_s=1,
                entry_why=_why(ts - 1, direction, score, phase, rng, entry=True, words=words),
                exit_why=_why(int(rows.ts[j]) - 1, direction, score / 2, phase, rng, entry=False, words=words),
            )
        )  # fmt: skip
    return out


REASONS = {
    "flow_reversal": "spot turned against us",
    "structure": "the structure broke",
    "both_flows_against": "both flows against us",
    "context_flip": "the context flipped",
}


def _why(
    ts: int, direction: int, score: float, phase: str, rng: np.random.Generator, *, entry: bool, words: str
) -> page.Why:
    side = "shorts trapped" if direction > 0 else "longs trapped"
    share = np.diff(np.sort(rng.random(4)), prepend=0)
    maxima = (("Reset deceleration", 3.5), ("Absorption", 2.5), ("Failed breakdown", 2.0), ("Directional bias", 1.0))
    return page.Why(
        ts=ts,
        title=f"Entry: {side}, score {score:.3f} of 10" if entry else f"Exit: {words}",
        sentence=(
            "Spot bought while perpetual traders sold and price did not fall; the gap began to close and candles got smaller."
            if entry
            else "The first exit condition that held; the flow that brought us in had left."
        ),
        score=score, direction=direction, phase=phase,
        parts=tuple(
            page.Part(label=label, points=min(most, float(part) * score), points_max=most, text="3 tests, ranges fall")
            for (label, most), part in zip(maxima, share, strict=True)
        ) if entry else (),
        inputs=(
            page.Input(label="Score", text=f"{score:.3f}", threshold="≥ 4", met=score >= 4),
            page.Input(label="Gap 15 min", text="2.41 swings", threshold="≥ 1.5", met=True),
            page.Input(label="Price 15 min", text="−0.21 swings", threshold="≥ −0.5", met=True),
            page.Input(label="Open interest 30 min", text="+1.32 swings", known_at=ts - 37, threshold="≥ 1", met=True),
            page.Input(label="Funding, 8 h", text="0.0081 %", known_at=ts - 5_400),
            page.Input(label="Quality", text="100 %", threshold="≥ 80 %", met=True),
            page.Input(label="Expected move", text="0.31 %", threshold="> 0.22 % (2 × costs)", met=entry),
        ),
        windows=tuple(
            page.WindowLine(
                window_s=w, spot_usd=float(rng.normal(0, 2e4) * w**0.5), perp_usd=float(rng.normal(0, 9e4) * w**0.5),
                z_spot=float(rng.normal()), z_perp=float(rng.normal()), gap=float(rng.normal(0, 1.5)),
                gap_in_swings=float(abs(rng.normal(0, 1.5))), price_return=float(rng.normal(0, 1e-4) * w**0.5),
                z_return=float(rng.normal()),
            )
            for w in (300, 900, 1_800, 3_600, 14_400)
        ),
    )  # fmt: skip


def _equity(
    markets: dict[str, _Market], days: int, trades: list[page.TradeLine]
) -> tuple[page.Pack, NDArray[np.float64]]:
    ts = day_start_s(START) + np.arange(0, days * DAY_S + 1, 300)
    equity = np.full(len(ts), CAPITAL_USD)
    for trade in trades:
        equity[np.searchsorted(ts, trade.exit_ts) :] += trade.pnl_usd
    peak = np.maximum.accumulate(equity)
    growth = []
    for market in markets.values():
        at = np.clip(np.searchsorted(market.rows.ts, ts, side="right") - 1, 0, None)
        growth.append(market.rows.close[at] / market.rows.open[0])
    holding = CAPITAL_USD * np.mean(growth, axis=0)
    columns = (
        ("equity", "USD", 100, equity),
        ("drawdown", "share", 10**6, equity / peak - 1),
        ("holding", "USD", 100, holding),
    )
    packed = page.pack(
        [
            page.Series("ts", "s", 1, ts),
            *(page.Series(name, unit, scale, np.rint(v * scale).astype(np.int64)) for name, unit, scale, v in columns),
        ]
    )
    return packed, equity


def _bands(markets: dict[str, _Market], days: int) -> tuple[page.Band, ...]:
    rng = np.random.default_rng(5)
    bands: list[page.Band] = []
    for market in markets.values():
        at = day_start_s(START)
        while at < day_start_s(START) + days * DAY_S:
            at += int(rng.exponential(7_000))
            direction = int(rng.choice([-1, 1]))
            for phase in PHASES[: int(rng.integers(1, 4))]:
                end = at + int(rng.integers(400, 2_600))
                first, last = np.searchsorted(market.rows.ts, [at, end])
                inside = slice(int(first), max(int(last), int(first) + 1))
                known = phase != "IMBALANCED" and first < len(market.rows.ts)
                bands.append(
                    page.Band(
                        asset=market.asset, start_s=at, end_s=end, direction=direction, phase=phase,
                        low=float(market.rows.low[inside].min()) / PRICE_SCALE if known else None,
                        high=float(market.rows.high[inside].max()) / PRICE_SCALE if known else None,
                    )
                )  # fmt: skip
                at = end
    return tuple(sorted(bands, key=lambda band: band.start_s))


def _figures(trades: list[page.TradeLine], equity: NDArray[np.float64]) -> tuple[page.Figure, ...]:
    total = float(equity[-1] / equity[0] - 1)
    wins = sum(trade.pnl_usd > 0 for trade in trades)
    drawdown = float((equity / np.maximum.accumulate(equity) - 1).min())
    known = bool(trades)
    return (
        _figure(
            "total_return", "Return", total, "share", 0.05, "Equity at the end over equity at the start, less one."
        ),
        _figure(
            "sharpe",
            "Sharpe ratio",
            1.84 if known else None,
            "ratio",
            1.9,
            "Mean over deviation of daily returns, × √365.",
        ),
        _figure(
            "max_drawdown", "Max drawdown", drawdown, "share", 0.02, "Deepest fall from the highest equity before it."
        ),
        _figure(
            "win_rate",
            "Won",
            wins / len(trades) if known else None,
            "share",
            0.08,
            "Share of trades with a result above zero.",
        ),
        _figure("profit_factor", "Profit factor", 1.31 if known else None, "ratio", 0.3, "Won USD over lost USD."),
        _figure(
            "expectancy",
            "Per trade",
            sum(t.pnl_usd for t in trades) / len(trades) if known else None,
            "usd",
            40,
            "Mean result.",
        ),
        _figure("trades", "Trades", len(trades), "count", None, "Round trips."),
        _figure(
            "deflated_sharpe",
            "Deflated Sharpe",
            0.71 if known else None,
            "ratio",
            None,
            "Probability that the Sharpe ratio is above the best of 14 trials by luck.",
        ),
    )


def _figure(name: str, label: str, value: float | None, unit: str, reach: float | None, note: str) -> page.Figure:
    if value is None:
        return page.Figure(name=name, label=label, value=None, unit=unit, note="no trade was made")
    if reach is None:
        return page.Figure(name=name, label=label, value=value, unit=unit, note=note)
    return page.Figure(
        name=name, label=label, value=value, unit=unit, low=value - reach, high=value + reach * 1.1, note=note
    )


def _groups(trades: list[page.TradeLine]) -> tuple[page.FigureGroup, ...]:
    def group(title: str, *lines: tuple[str, float | None, str]) -> page.FigureGroup:
        return page.FigureGroup(
            title=title,
            figures=tuple(
                page.Figure(
                    name=label.lower().replace(" ", "_"),
                    label=label,
                    value=value if trades else None,
                    unit=unit,
                    note=f"What {label.lower()} means, in a sentence that opens on demand.",
                )
                for label, value, unit in lines
            ),
        )

    return (
        group(
            "Return",
            ("CAGR", 0.412, "share"),
            ("Volatility", 0.182, "share"),
            ("Best day", 0.0141, "share"),
            ("Worst day", -0.0172, "share"),
            ("Exposure", 0.113, "share"),
            ("Turnover", 41.2, "ratio"),
        ),
        group(
            "Risk",
            ("Sortino ratio", 2.71, "ratio"),
            ("Calmar ratio", 8.1, "ratio"),
            ("Omega ratio", 1.38, "ratio"),
            ("VaR 95 %", -0.0091, "share"),
            ("Expected shortfall 95 %", -0.0133, "share"),
            ("Longest drawdown", 612_000, "seconds"),
            ("Drawdown began", 1_767_830_400, "date"),
        ),
        group(
            "Trades",
            ("Average win", 311.2, "usd"),
            ("Average loss", -287.9, "usd"),
            ("Median hold", 1_810, "seconds"),
            ("Longest hold", 4_790, "seconds"),
            ("Average slippage", 1.94, "bps"),
            ("Long", 71, "count"),
            ("Short", 74, "count"),
        ),
        group(
            "Luck",
            ("Probabilistic Sharpe ratio", 0.912, "ratio"),
            ("Minimum track record", 9_331_200, "seconds"),
            ("Trials counted", 14, "count"),
            ("PBO", None, "share"),
        ),
    )


def _breakdowns(trades: list[page.TradeLine]) -> tuple[page.Breakdown, ...]:
    def split(title: str, key) -> page.Breakdown:
        kinds: dict[str, list[page.TradeLine]] = {}
        for trade in trades:
            kinds.setdefault(str(key(trade)), []).append(trade)
        return page.Breakdown(
            title=title,
            lines=tuple(
                page.BreakdownLine(
                    label=label,
                    trades=len(of),
                    wins=sum(t.pnl_usd > 0 for t in of),
                    pnl_usd=sum(t.pnl_usd for t in of),
                    pnl_mean_usd=sum(t.pnl_usd for t in of) / len(of),
                    costs_usd=sum(t.fees_usd + t.slippage_usd for t in of),
                )
                for label, of in sorted(kinds.items())
            ),
        )

    return (
        split("Direction", lambda t: "long" if t.direction > 0 else "short"),
        split("Phase", lambda t: t.phase),
        split("Score tier", lambda t: f"tier {t.tier}"),
        split("Exit reason", lambda t: t.reason_words),
        split(
            "Hour (UTC)",
            lambda t: f"from {t.entry_ts % DAY_S // 14_400 * 4:02d}:00",
        ),
        split(
            "Weekday",
            lambda t: ("1 Mon", "2 Tue", "3 Wed", "4 Thu", "5 Fri", "6 Sat", "7 Sun")[(t.entry_ts // DAY_S + 3) % 7],
        ),
    )


def _run(markets: dict[str, _Market], days: int, trades_a_day: int, number: int, step_s: int) -> page.RunPage:
    trades = _trades(markets, days, trades_a_day, number)
    equity, values = _equity(markets, days, trades)
    rng = np.random.default_rng(number)
    total = float(values[-1] / values[0] - 1)
    placebo = np.sort(rng.normal(-0.012, 0.03, 200))
    start, end = day_start_s(START), day_start_s(START) + days * DAY_S
    assets = tuple(markets)
    return page.RunPage(
        run_id=f"{(0x9F3A71C4E5B20D68 + number * 7_919):016x}" * 2,
        name=f"{'+'.join(assets)} entry ≥ {4 + number / 2:g}",
        assets=assets,
        start_s=start,
        end_s=end,
        capital_usd=CAPITAL_USD,
        entry_score=4.0,
        warnings=("A hole of 7 minutes on 2026-01-04: the strategy warmed up anew after it.",) if days > 1 else (),
        verdict=_verdict(trades),
        headline=_figures(trades, values),
        groups=_groups(trades),
        breakdowns=_breakdowns(trades),
        months=(
            page.Month(year=2025, month=12, total_return=-0.0123, days=6),
            page.Month(year=2026, month=1, total_return=total, days=min(29, days)),
        ),
        trades=tuple(trades),
        series=tuple(
            page.AssetSeries(
                asset=market.asset,
                instrument=f"binance:{market.asset}-USDT-PERP",
                price_decimals=1 if market.asset == "BTC" else 2,
                step_s=step_s,
                base=_base(market, [t for t in trades if t.asset == market.asset], step_s),
                seconds=_seconds(market, [t for t in trades if t.asset == market.asset]),
            )
            for market in markets.values()
        ),
        bands=_bands(markets, days),
        equity=equity,
        placebos=(
            _placebo(
                "shuffled",
                "Perp flow shuffled",
                "The same strategy on perp flow whose hours were permuted.",
                total,
                placebo,
            ),
            _placebo(
                "random",
                "Random entries",
                "Entries at random times with the same holding times and sizes.",
                total,
                placebo + 0.004,
            ),
        )
        if trades
        else (),
        stress=page.CostStress(
            lines=tuple(
                page.Stress(
                    factor=f,
                    total_return=total + 0.09 * (1 - f),
                    sharpe=1.84 + 1.5 * (1 - f),
                    trades=len(trades),
                    costs_usd=9_000 * f,
                )
                for f in (0, 1, 2)
            ),
            break_even=1.46,
            note="Between the factors that were run, costs are interpolated.",
        )
        if trades
        else None,
        quality=tuple(_quality(market, days) for market in markets.values()),
        receipt=(
            page.ReceiptLine(
                label="run id",
                text=f"{(0x9F3A71C4E5B20D68 + number * 7_919):016x}" * 2,
                note="hash of spec and code version",
            ),
            page.ReceiptLine(
                label="result hash",
                text="b1946ac92492d2347c6235b4d2611184" * 2,
                note="spec, code version, data hashes, trades, equity",
            ),
            page.ReceiptLine(label="code version", text="5d41402abc4b2a76b9719d911017c592"),
            page.ReceiptLine(
                label="again",
                text=f"squeezeflow backtest {' '.join(assets)} --from {START} --to {START + dt.timedelta(days - 1)}",
            ),
        ),
    )


def _verdict(trades: list[page.TradeLine]) -> page.Verdict:
    if len(trades) < 10:
        return page.Verdict(
            word="too few trades",
            sentence=f"{len(trades)} trades say nothing: at least 30 are needed before luck can be told from an edge.",
            reasons=(page.Reason(text=f"{len(trades)} trades, 30 are needed", points=0),),
        )
    return page.Verdict(
        word="no edge",
        sentence="What was earned lies within what chance gives to strategies that know nothing.",
        reasons=(
            page.Reason(text="The interval of the Sharpe ratio contains zero: −0.06 to 3.93", points=-1),
            page.Reason(text="11 of 200 placebos on shuffled perp flow did at least as well (p = 0.060)", points=-1),
            page.Reason(text="The edge bears 1.46 times its costs", points=1),
            page.Reason(
                text="Not enough trials over this range for a probability of overfitting (14 of 10 needed)", points=0
            ),
        ),
    )


def _placebo(name: str, title: str, what: str, real: float, values: NDArray[np.float64]) -> page.Placebo:
    return page.Placebo(
        name=name,
        title=title,
        what=what,
        measure="total return",
        real=real,
        values=tuple(values.tolist()),
        p_value=(1 + int((values >= real).sum())) / (1 + len(values)),
    )


def _quality(market: _Market, days: int) -> page.Quality:
    listed = [START + dt.timedelta(n) for n in range(days)]
    counts = [
        int(((market.rows.ts >= day_start_s(d)) & (market.rows.ts < day_start_s(d) + DAY_S)).sum()) for d in listed
    ]
    at = day_start_s(START) + DAY_S
    return page.Quality(
        asset=market.asset,
        seconds_expected=days * DAY_S,
        seconds=sum(counts),
        incomplete=37,
        days=tuple(
            page.QualityDay(day=d, seconds=n, incomplete=37 if i == 2 else 0, holes=int(n < DAY_S))
            for i, (d, n) in enumerate(zip(listed, counts, strict=True))
        ),
        holes=((at + HOLE[0], at + HOLE[1]),) if days > 1 else (),
        venues=tuple(
            page.VenueLine(instrument=one.id, weight=1.0, seconds=sum(counts), complete=sum(counts) - 12 * i, gaps=i)
            for i, one in enumerate(simulator.instruments(market.asset))
        ),
    )


def _comparison(runs: tuple[page.RunPage, ...]) -> page.Comparison:
    taken = [{(t.asset, t.entry_ts, t.direction): t.pnl_usd for t in run.trades} for run in runs]
    every = sorted(set().union(*taken))
    differing = [key for key in every if len({one.get(key) for one in taken}) > 1]
    return page.Comparison(
        spec=(("params.entry_score", tuple(f"{4 + n / 2:g}" for n in range(len(runs)))),),
        shared=len(every) - len(differing),
        differences=tuple(
            page.Difference(
                asset=asset,
                entry_ts=ts,
                direction=direction,
                pnl_usd=tuple(one.get((asset, ts, direction)) for one in taken),
                why="score 4.120 was below 4.5",
            )
            for asset, ts, direction in differing
        ),
    )
