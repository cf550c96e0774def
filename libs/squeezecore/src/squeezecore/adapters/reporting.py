"""The report page of a run, or of several side by side, put together from what the store keeps.

Numbers come from `statistics`, charts and reasons from `charting`, luck from trials and placebos; here they are only laid
out as `page` wants them. What is expensive is made by the first report and kept, so that the next one is quick.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from squeezecore import statistics
from squeezecore.adapters import charting, explaining, placebos, scanning, trials, wording
from squeezecore.adapters.operations import Report, silent
from squeezecore.adapters.page import (
    Breakdown,
    BreakdownLine,
    Comparison,
    CostStress,
    Difference,
    Figure,
    FigureGroup,
    Month,
    Page,
    Placebo,
    Reason,
    ReceiptLine,
    RunPage,
    TradeLine,
    Verdict,
)
from squeezecore.adapters.store import Store
from squeezecore.adapters.tables import BacktestRun
from squeezecore.errors import SqueezeError, UsageError
from squeezecore.market import Instrument
from squeezecore.report import Trade
from squeezecore.spec import BacktestSpec, Costs, Limits, canonical, day_start_s
from squeezecore.squeeze import params_from
from squeezecore.statistics import Curve, Interval
from squeezecore.trading import USD_E8, Decision

HEADLINE = (
    "total_return",
    "sharpe",
    "drawdown_max",
    "trades",
    "win_rate",
    "profit_factor",
    "expectancy_bps",
    "exposure",
    "costs_usd",
    "dsr",
)
NAMED_MAX = 3  # parameters in a run's name
NEAR_S = 300  # a record this long before a trade still says why another run did not take it


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a report says without its page, for machines."""

    run_id: str
    name: str
    warnings: tuple[str, ...]
    verdict: Verdict
    headline: tuple[Figure, ...]
    groups: tuple[FigureGroup, ...]
    placebos: tuple[Placebo, ...]
    stress: CostStress | None


class ReportAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What `report` and `compare` answer."""

    runs: tuple[RunReport, ...]
    comparison: Comparison | None = None
    path: str = ""  # of the page; empty where it could not be drawn
    size: int = 0  # bytes
    note: str = ""


def answer_of(page: Page, path: str = "", size: int = 0, note: str = "") -> ReportAnswer:
    """Return a page's numbers without its series."""
    runs = tuple(
        RunReport(
            run_id=run.run_id, name=run.name, warnings=run.warnings, verdict=run.verdict, headline=run.headline,
            groups=run.groups, placebos=run.placebos, stress=run.stress,
        )
        for run in page.runs
    )  # fmt: skip
    return ReportAnswer(runs=runs, comparison=page.comparison, path=path, size=size, note=note)


def write_page(file: Path, html: bytes) -> None:
    """Write a page, whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(html)
        partial.replace(file)
    except OSError as error:
        raise SqueezeError(f"page could not be written to {file} ({error.strerror}): name another --out") from error


# --- the page ---


def build_page(
    store: Store,
    names: Sequence[str],
    report: Report = silent,
    *,
    placebo_runs: int = placebos.RUNS,
    scratch: Path | None = None,
) -> Page:
    """Put the page of one run together, or of several side by side; `names` are ids, their beginnings, or `last`.

    `placebo_runs` is how many runs over shuffled flow luck is measured by, at least; 0 measures neither those nor random entries
    nor the cost stress, and shows what was measured before. What is missing is worked out with files in `scratch`, and kept.
    """
    runs = [find_run(store, name) for name in names]
    if len({run.run_id for run in runs}) != len(runs):
        raise UsageError(f"runs were {', '.join(names)}, which are not all different: name each once")
    made = [_Run(store, run, report, placebo_runs, scratch) for run in runs]
    pages = tuple(one.page() for one in made)
    title = f"SqueezeFlow: {pages[0].name}" + (f" and {len(pages) - 1} more" if len(pages) > 1 else "")
    return Page(title=title, runs=pages, comparison=_compare(made) if len(made) > 1 else None)


def _name(spec: BacktestSpec) -> str:
    """Name a run for legends: what it is of, and what is not as by default."""
    changes = [f"{name} {value}" for name, value in sorted(spec.params.items())]
    if len(changes) > NAMED_MAX:
        changes = [f"{len(changes)} parameters changed"]
    return ", ".join([f"{', '.join(spec.assets)} {spec.start} to {spec.end}", *changes])


def find_run(store: Store, name: str) -> BacktestRun:
    """Return a finished run, or say what finishes the one that is meant."""
    if name != "last":
        found = [run for run in store.runs() if run.run_id.startswith(name)]
        if len(found) == 1 and found[0].state != "done":
            run = found[0]
            command = command_of(msgspec.json.decode(run.spec, type=BacktestSpec))
            raise UsageError(
                f"run {run.run_id[:12]} is {run.state}, a report needs a finished one: {command} goes on with it"
            )
    return explaining.find_run(store, name)


def command_of(spec: BacktestSpec) -> str:
    """Write the command that makes a run of this spec.

    >>> import datetime as dt
    >>> command_of(BacktestSpec(assets=("BTC",), start=dt.date(2026, 1, 1), end=dt.date(2026, 1, 2), params={"entry_score": 5.0}))
    'squeezeflow backtest BTC --from 2026-01-01 --to 2026-01-02 --set entry_score=5.0'
    """
    words = ["squeezeflow backtest", *spec.assets, f"--from {spec.start}", f"--to {spec.end}"]
    words += [f"--set {name}={value}" for name, value in sorted(spec.params.items())]
    for flag, value, default in (("--cost", spec.costs, Costs()), ("--limit", spec.limits, Limits())):
        words += [
            f"{flag} {name}={str(getattr(value, name)).lower()}"
            for name in value.__struct_fields__
            if getattr(value, name) != getattr(default, name)
        ]
    if spec.capital_usd != 100_000:
        words.append(f"--capital {spec.capital_usd}")
    if spec.warmup_s != 28 * 3600:
        words.append(f"--warmup-hours {spec.warmup_s / 3600:g}")
    return " ".join(words)


class _Run:
    """One run and everything the store keeps of it."""

    def __init__(self, store: Store, run: BacktestRun, report: Report, placebo_runs: int, scratch: Path | None) -> None:
        self.run, self.spec = run, msgspec.json.decode(run.spec, type=BacktestSpec)
        self.trades, self._store = store.trades(run.run_id), store
        self.name = _name(self.spec)
        self.params = params_from(self.spec.params)
        self._listed = store.instruments()
        self.charts = charting.charts(store, run, self.trades, lambda: self.decisions, report)
        ts, equity = store.equity(run.run_id)
        self.curve = Curve(
            ts, equity, self.spec.capital_usd * USD_E8, day_start_s(self.spec.start), len(self.spec.days())
        )
        self._tried = trials.trials_for(store, self.spec)
        self._luck = _luck(store, run, report, placebo_runs, scratch)
        self._warnings = _warnings(run, len(self.trades), self.charts, self._luck.note)
        self._close_up = charting.close_up(self.trades)
        records = store.read_table("decisions", run.run_id)
        entered = zip(*(records[name].to_pylist() for name in ("kind", "order_id", "phase")), strict=True)
        phases = {order_id: phase for kind, order_id, phase in entered if kind == "entry"}
        self._phases = {trade.entry_order_id: phases.get(trade.entry_order_id, "") for trade in self.trades}

    @functools.cached_property
    def decisions(self) -> list[Decision]:
        """Every record of the run: a year has a hundred thousand, so only who needs them reads them."""
        return self._store.decisions(self.run.run_id)

    def page(self) -> RunPage:
        """Lay the run out."""
        tried = self._tried
        numbers = statistics.performance(self.curve, self.trades, trial_sharpes=[t.sharpe for t in tried.trials])
        depth = float(
            self.run.summary["figures"]["drawdown_max"]
        )  # of every second; the stored points are a minute apart
        numbers = msgspec.structs.replace(
            numbers, drawdown_max=depth, calmar=statistics.calmar(self.curve.returns, drawdown_max=depth)
        )
        intervals = statistics.intervals(self.curve, self.trades, bytes.fromhex(self.run.run_id)).values
        figures = {d.name: _figure(d, getattr(numbers, d.name), intervals.get(d.name)) for d in statistics.FIGURES}
        groups = [
            FigureGroup(title=title, figures=tuple(figures[d.name] for d in statistics.FIGURES if d.group == title))
            for title in dict.fromkeys(d.group for d in statistics.FIGURES)
        ]
        return RunPage(
            run_id=self.run.run_id, name=self.name, assets=self.spec.assets, start_s=self.curve.start_s, end_s=self.curve.end_s,
            capital_usd=float(self.spec.capital_usd), entry_score=self.params.entry_score, warnings=self._warnings,
            verdict=self._verdict(numbers, intervals.get("day_mean")),
            headline=tuple(figures[name] for name in HEADLINE), groups=tuple(groups), breakdowns=self._breakdowns(),
            months=tuple(
                Month(year=m.year, month=m.month, total_return=m.total_return, days=m.days)
                for m in statistics.monthly_returns(self.curve.returns, self.spec.start)
            ),
            trades=tuple(self._line(n, trade) for n, trade in enumerate(self.trades, 1)), series=self.charts.series,
            bands=self.charts.bands, equity=self.charts.equity, placebos=self._luck.placebos, stress=self._luck.stress,
            quality=self.charts.quality, receipt=self._receipt(),
        )  # fmt: skip

    def _verdict(self, numbers: statistics.Performance, day_mean: Interval | None) -> Verdict:
        matrix, stress = self._tried.matrix, self._luck.stress
        counts = {p.title.lower(): len(p.values) for p in self._luck.placebos}
        told = {p.title.lower(): p.p_value for p in self._luck.placebos if len(p.values) >= statistics.PLACEBOS_MIN}
        overfitting = statistics.overfitting(matrix) if matrix is not None else None
        found = statistics.judge(
            trades=numbers.trades, days=numbers.days, psr=numbers.psr, min_track_days=numbers.min_track_days, dsr=numbers.dsr,
            trials=numbers.trials, day_mean=day_mean, placebos=told,
            few={title: count for title, count in counts.items() if title not in told},
            break_even=None if stress is None else _break_even(stress), pbo=overfitting.pbo if overfitting else None,
        )  # fmt: skip
        return Verdict(
            word=found.word,
            sentence=found.sentence,
            reasons=tuple(Reason(text=reason.text, points=reason.points) for reason in found.reasons),
            provisional=found.provisional,
        )

    def _breakdowns(self) -> tuple[Breakdown, ...]:
        phase = statistics.Split(
            "phase",
            "Phase at the decision",
            lambda t: self._phases[t.entry_order_id],
            lambda p: wording.PHASE_WORDS.get(p, "unknown"),
        )
        splits = [phase, *statistics.SPLITS]
        return tuple(
            Breakdown(
                title=split.title,
                lines=tuple(
                    BreakdownLine(
                        label=wording.exit_words(group.label.replace(" ", "_")) if split.name == "reason" else group.label,
                        trades=group.trades, wins=group.wins, pnl_usd=group.pnl_usd_e8 / USD_E8,
                        pnl_mean_usd=group.pnl_mean_usd, costs_usd=group.costs_usd_e8 / USD_E8,
                    )
                    for group in statistics.attribute(self.trades, split.key, split.label)
                ),
            )
            for split in splits
        )  # fmt: skip

    def _line(self, number: int, t: Trade) -> TradeLine:
        listed: Instrument = self._listed[t.instrument]
        price, charts = 10**listed.price_decimals, self.charts
        mae, mfe = charts.excursions.get(number, (0.0, 0.0))
        return TradeLine(
            number=number, asset=t.asset, instrument=t.instrument, direction=int(t.direction), tier=t.tier, score=t.score_milli / 1000,
            phase=self._phases[t.entry_order_id], decided_ts=t.decided_ts, entry_ts=t.entry_ts, exit_ts=t.exit_ts, hold_s=t.hold_s,
            qty=t.qty / 10**listed.qty_decimals, entry_price=t.entry_price / price, exit_price=t.exit_price / price,
            notional_usd=t.entry_usd_e8 / USD_E8, pnl_usd=t.pnl_usd_e8 / USD_E8,
            pnl_share=t.pnl_usd_e8 / t.entry_usd_e8 if t.entry_usd_e8 else 0.0, fees_usd=t.fees_usd_e8 / USD_E8,
            slippage_usd=t.slippage_usd_e8 / USD_E8, funding_usd=t.funding_usd_e8 / USD_E8, mae_usd=mae, mfe_usd=mfe,
            level=t.level / price if t.level else None, reason=t.reason, reason_words=wording.exit_words(t.reason),
            detail_s=1 if number in self._close_up else charting.COARSE_S, entry_why=charts.entries.get(number),
            exit_why=charts.exits.get(number),
        )  # fmt: skip

    def _receipt(self) -> tuple[ReceiptLine, ...]:
        run, summary = self.run, self.run.summary
        lines = [
            ReceiptLine(label="Run", text=run.run_id, note="hash of the spec and the code"),
            ReceiptLine(label="Result", text=run.result_hash, note="hash of spec, code, data, trades and equity"),
            ReceiptLine(label="Data", text=summary.get("data_hash", ""), note="hash of the rows that were read"),
            ReceiptLine(label="Parameters", text=summary.get("params_hash", "")),
            ReceiptLine(label="Code", text=run.code_version, note="hash of the core's sources"),
            ReceiptLine(label="Spec", text=canonical(self.spec).decode()),
            ReceiptLine(
                label="Again", text=command_of(self.spec), note="from the same rows, the same result, to the last bit"
            ),
        ]
        if "trial" in summary:
            text = f"{self._tried.count} counted on these assets and days"
            lines.append(ReceiptLine(label="Trial", text=summary["trial"], note=text))
        return tuple(lines)


def _luck(store: Store, run: BacktestRun, report: Report, count: int, scratch: Path | None) -> placebos.Luck:
    """Return what chance and other costs bring, or why that cannot be had; what was measured once is never left out."""
    found = placebos.kept(store, run)
    there = max((len(p.values) for p in found.placebos if p.name == placebos.SHUFFLED), default=0)
    if count:
        try:
            found = placebos.measure(store, run, report, runs=max(count, there), scratch=scratch)
        except UsageError as error:  # of another version, or its rows have changed: the rest of the page stands
            found = msgspec.structs.replace(found, note=f"Placebos and cost stress are not complete: {error}.")
    least = statistics.PLACEBOS_MIN
    few = f"Fewer than {least}: no p-value of {statistics.PLACEBO_P_MAX} can come of them, the verdict does not count them."
    noted = [p if len(p.values) >= least else msgspec.structs.replace(p, note=few) for p in found.placebos]
    return msgspec.structs.replace(found, placebos=tuple(noted))


def _warnings(run: BacktestRun, trades: int, charts: charting.Charts, note: str) -> tuple[str, ...]:
    warnings = []
    if run.code_version != scanning.code_version():
        warnings.append(
            f"This run was made by another version of the code ({run.code_version[:12]}); its numbers are as they were stored, "
            "its reasons are explained by today's. The command in the receipt makes it anew."
        )
    if charts.scores_differ:
        warnings.append(
            f"{charts.scores_differ} of {trades} entries have another score when they are explained than when they were decided."
        )
    if not trades:
        warnings.append(
            "This run made no trade: there is nothing to judge. squeezeflow explain ASSET --at TIME says what kept it from one."
        )
    for quality in charts.quality:
        missing, holes = quality.seconds_expected - quality.seconds, sum(day.holes for day in quality.days)
        if missing:
            warnings.append(
                f"{quality.asset}: {missing:,} of {quality.seconds_expected:,} seconds have no row ({holes} "
                f"{'hole' if holes == 1 else 'holes'}); after each it warmed up for 28 hours."
            )
    if note and trades:
        warnings.append(note)
    return tuple(warnings)


def _figure(d: statistics.FigureDefinition, value: Any, interval: Interval | None) -> Figure:
    return Figure(
        name=d.name, label=d.label, value=None if value is None else float(value), unit=d.unit,
        low=interval.low if interval and value is not None else None, high=interval.high if interval and value is not None else None,
        note=d.note,
    )  # fmt: skip


def _break_even(stress: CostStress) -> float:
    """Return the factor at which nothing is left; infinite where all that were tried leave something."""
    if stress.break_even is not None:
        return stress.break_even
    return math.inf if stress.lines and stress.lines[-1].total_return > 0 else 0.0


# --- runs side by side ---


def _compare(runs: Sequence[_Run]) -> Comparison:
    """Say what was asked differently, and which trades differ and why."""
    shared, differences = 0, []
    looks = [_Records(one) for one in runs]
    for found in _side_by_side(runs):
        there = [trade for trade in found if trade is not None]
        if len(there) == len(found) and len({look.kind_of(t) for look, t in zip(looks, there, strict=True)}) == 1:
            shared += 1
            continue
        why = "; ".join(
            f"run {n}: {look.why_not(there[0])}"
            for n, (trade, look) in enumerate(zip(found, looks, strict=True), 1)
            if trade is None
        )
        differences.append(
            Difference(
                asset=there[0].asset,
                entry_ts=min(trade.entry_ts for trade in there),
                direction=int(there[0].direction),
                pnl_usd=tuple(None if trade is None else trade.pnl_usd_e8 / USD_E8 for trade in found),
                why=why or _what_differs(there),
            )
        )
    return Comparison(spec=_spec_differences([one.spec for one in runs]), shared=shared, differences=tuple(differences))


def _side_by_side(runs: Sequence[_Run]) -> list[list[Trade | None]]:
    """Put trades of different runs beside each other that were open at the same time, in one asset and direction."""
    lines: list[list[Trade | None]] = []
    last: dict[tuple[str, int], tuple[int, list[Trade | None]]] = {}  # until when it was open
    everything = [(trade.decided_ts, place, trade) for place, one in enumerate(runs) for trade in one.trades]
    for decided_ts, place, trade in sorted(everything, key=lambda item: item[:2]):
        key = (trade.asset, int(trade.direction))
        until, line = last.get(key, (0, []))
        if decided_ts >= until or line[place] is not None:
            until, line = 0, [None] * len(runs)
            lines.append(line)
        line[place] = trade
        last[key] = max(until, trade.exit_ts), line
    return lines


def _what_differs(there: Sequence[Trade]) -> str:
    """Say how trades that all runs made are not the same."""
    parts = []
    if len({trade.decided_ts for trade in there}) > 1:
        parts.append("decided " + ", ".join(wording.clock(trade.decided_ts) for trade in there))
    if len({trade.tier for trade in there}) > 1:
        parts.append("tiers " + ", ".join(str(trade.tier) for trade in there))
    if len({trade.exit_ts for trade in there}) > 1 or len({trade.reason for trade in there}) > 1:
        parts.append("left " + ", ".join(f"{wording.clock(t.exit_ts)} ({wording.exit_words(t.reason)})" for t in there))
    return "; ".join(parts)


class _Records:
    """A run's records by asset and time, to be asked why a trade of another run is not among its own."""

    def __init__(self, one: _Run) -> None:
        self._one = one
        self._by_asset: dict[str, list[Decision]] = {}
        for decision in one.decisions:
            self._by_asset.setdefault(decision.asset, []).append(decision)
        self._left = {d.order_id: d.ts for d in reversed(one.decisions) if d.kind == "exit"}

    def kind_of(self, trade: Trade) -> tuple[Any, ...]:
        """Return what makes trades of two runs one: both decisions. Sizes follow the account, fills the sizes."""
        return trade.decided_ts, trade.tier, trade.reason, self._left.get(trade.exit_order_id, trade.exit_ts)

    def why_not(self, trade: Trade) -> str:
        """Say what kept this run from another run's trade."""
        one, at = self._one, trade.decided_ts
        if trade.asset not in one.spec.assets:
            return f"{trade.asset} is not among its assets"
        if not one.curve.start_s <= at < one.curve.end_s:
            return "the second is outside of its days"
        held = next((t for t in one.trades if t.asset == trade.asset and t.decided_ts <= at < t.exit_ts), None)
        if held is not None:
            side = "long" if held.direction > 0 else "short"
            return f"it was {side} already, decided {wording.clock(held.decided_ts)}"
        records = self._by_asset.get(trade.asset, [])
        place = bisect.bisect_right(records, at, key=lambda d: d.ts)
        near = [d for d in records[max(0, place - 8) : place] if d.ts > at - NEAR_S]
        if near and near[-1].kind == "denied":
            return f"a limit denied it: {near[-1].reason}"
        if near and near[-1].blocked_by:
            return "; ".join(wording.block_words(name) for name in near[-1].blocked_by)
        if trade.score_milli < 1000 * one.params.entry_score:
            return f"the score of {trade.score_milli / 1000:.3f} is below its entry at {one.params.entry_score:g}"
        if near:
            return f"its score was {near[-1].score_milli / 1000:.3f} at {wording.clock(near[-1].ts)}"
        return f"its score was below {one.params.record_score:g}: no record was left"


def _spec_differences(specs: Sequence[BacktestSpec]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """List every field that is not the same in all specs, parameters with their defaults filled in."""
    flat = []
    for spec in specs:
        plain: Mapping[str, Any] = msgspec.to_builtins(spec)
        values = {name: value for name, value in plain.items() if name not in ("params", "costs", "limits")}
        values |= {f"costs.{name}": value for name, value in plain["costs"].items()}
        values |= {f"limits.{name}": value for name, value in plain["limits"].items()}
        values |= msgspec.to_builtins(params_from(spec.params))
        flat.append(
            {
                name: ", ".join(value) if isinstance(value, (list, tuple)) else str(value)
                for name, value in values.items()
            }
        )
    found = ((name, tuple(one.get(name, "") for one in flat)) for name in flat[0])
    return tuple((name, texts) for name, texts in found if len(set(texts)) > 1)
