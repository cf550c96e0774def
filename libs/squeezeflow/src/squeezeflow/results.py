"""How results and reasons look in a terminal."""

from __future__ import annotations

from typing import Any

from squeezecore.adapters import wording
from squeezecore.trading import USD_E8
from squeezeflow.show import clock, out, pairs, table, usd

DIFFERENCES_SHOWN = 20


def backtest(report: Any) -> None:
    """Show a run's summary beside buy-and-hold, and its receipt."""
    s, spec = report.summary, report.spec
    for warning in report.warnings:
        out.print(f"note: {warning}", style="yellow")
    capital = s.capital_usd_e8 / USD_E8
    pairs(
        f"Backtest of {', '.join(spec.assets)}, {spec.start} to {spec.end} ({s.days} days)"
        + (", shown again (--fresh scans anew)" if report.cached else f", {report.seconds:.1f} s"),
        [
            ("return", f"{_percent(s.total_return)}   {usd((s.equity_usd_e8 - s.capital_usd_e8) / USD_E8, 2)} USD on {capital:,.0f}"),
            ("buy and hold", ", ".join(f"{asset} {_percent(value)}" for asset, value in s.buy_and_hold.items())
             + (f", equal parts {_percent(s.buy_and_hold_equal)}" if len(s.buy_and_hold) > 1 else "")),
            ("max drawdown", f"{_percent(-s.drawdown_max)}   {s.drawdown_max_usd_e8 / USD_E8:,.2f} USD"),
            ("paid", f"fees {_money(s.fees_usd_e8)}, slippage {_money(s.slippage_usd_e8)} (inside the prices), "
             f"funding {_money(-s.funding_usd_e8)} USD"),
            ("trades", f"{s.trades} ({s.trades_per_day:.1f} a day), won {_share(s.win_rate)}, long {_share(s.long_share)}, "
             f"median hold {s.hold_s_median / 60:.0f} min"),
            ("a trade", f"mean {s.pnl_mean_usd_e8 / USD_E8:+,.2f} USD, profit factor {s.profit_factor:.2f}"),
            ("exposure", f"{_share(s.exposure)} of the time in a position"),
            ("exits", _counts(s.exits)),
            ("tiers", _counts(s.tiers)),
            ("data", f"{s.seconds:,} seconds, {s.seconds_incomplete:,} incomplete, {s.holes} holes; seams repaired {s.seams_repaired}"),
            ("decisions", f"{s.records:,} records with their reasons"),
            ("receipt", f"run {report.run_id[:12]}  result {report.result_hash[:16]}  data {report.data_hash[:12]}  "
             f"parameters {report.params_hash[:12]}  code {report.code_version[:12]}"),
        ],
    )  # fmt: skip
    if report.out:
        out.print(f"files: {report.out}/result.json, trades, decisions and equity as .parquet and .csv")
    if s.trades:
        out.print("next: squeezeflow explain last 1")


def runs(lines: Any) -> None:
    """List runs."""
    made = table("Runs", "run", "state", "assets", "range", "parameters", "return", "trades", "result",
                 right=("return", "trades"))  # fmt: skip
    for line in lines:
        made.add_row(
            line.run_id[:12], line.state, ", ".join(line.assets), f"{line.start} to {line.end}",
            ", ".join(f"{k}={v}" for k, v in line.params.items()) or "defaults",
            "" if line.total_return is None else _percent(line.total_return),
            "" if line.trades is None else str(line.trades), line.result_hash[:16],
        )  # fmt: skip
    out.print(made)


def trials(report: Any) -> None:
    """List trials, and what is wrong with them."""
    made = table("Trials", "run", "assets", "range", "return", "Sharpe", "trades", "hash",
                 right=("return", "Sharpe", "trades"))  # fmt: skip
    for line in report.trials:
        made.add_row(
            line.run_id[:12], ", ".join(line.assets), f"{line.first_day} to {line.last_day}", _percent(line.total_return),
            "" if line.sharpe is None else f"{line.sharpe:.2f}", str(line.trades), line.hash[:16],
        )  # fmt: skip
    out.print(made)
    if report.runs_without:
        out.print(f"{report.runs_without} finished runs are of versions that counted no trials")
    if report.verified:
        out.print(f"verified: links {report.links}, chains {report.chains}, faults {len(report.faults)}")
    for fault in report.faults:
        where = f"link {fault.sequence} of chain {fault.writer}, " if fault.writer else ""
        out.print(f"{where}run {fault.run_id[:12]}: {fault.what}")


def trade(report: Any) -> None:
    """Tell one trade: what came of it, why it was taken, why it was left."""
    t, price, qty = report.trade, 10**report.price_decimals, 10**report.qty_decimals
    action = "bought (shorts trapped)" if t.direction == 1 else "sold (longs trapped)"
    move = (t.exit_price / t.entry_price - 1) * int(t.direction)
    pairs(
        f"Trade {report.number} of {report.of} in run {report.run_id[:12]}: {t.instrument} {action}",
        [
            ("entry", f"{clock(t.entry_ts)} UTC at {t.entry_price / price:,.2f}, {t.qty / qty:g} {t.asset} "
             f"= {t.entry_usd_e8 / USD_E8:,.2f} USD, tier {t.tier}"),
            ("exit", f"{clock(t.exit_ts)} UTC at {t.exit_price / price:,.2f}, held {t.hold_s / 60:.1f} min, "
             f"because {wording.exit_words(t.reason)}"),
            ("result", f"{usd(t.pnl_usd_e8 / USD_E8, 2)} USD (price {_percent(move)}; fees {_money(t.fees_usd_e8)}, "
             f"slippage {_money(t.slippage_usd_e8)}, funding {_money(-t.funding_usd_e8)} USD paid)"),
            ("structure", f"frozen at entry: {t.level / price:,.2f}" if t.level else "none"),
        ],
    )  # fmt: skip
    second(report.entry, title="Why it was taken", side=int(t.direction))
    if report.exit is None:
        out.print(f"Why it was left: {wording.exit_words(t.reason)}; the strategy decided nothing there")
    else:
        second(report.exit, title=f"Why it was left: {wording.exit_words(t.reason)}", side=int(t.direction))
    recorded = table(
        "Records of both seconds", "second", "kind", "score", "phase", "reason", "order", "blocked by", right=("score",)
    )
    for decision in report.decisions:
        recorded.add_row(
            clock(decision.ts), decision.kind, f"{decision.score_milli / 1000:.3f}", decision.phase, decision.reason,
            decision.order_id, ", ".join(decision.blocked_by),
        )  # fmt: skip
    out.print(recorded)


def second(report: Any, title: str = "", side: int = 0) -> None:
    """Show one second: score and parts, inputs by window with thresholds, what was known when, what blocks an entry."""
    e, p = report.explanation, report.params
    price = 10**report.price_decimals
    row = e["row"]
    out.print()
    blocked = [wording.block_words(name) for name in e["blocked_by"]]
    reset = e["reset"]
    has_range = reset["reset_low"] or reset["reset_high"]
    interest = e["open_interest"]
    pairs(
        f"{title or 'Second'}: {report.asset} at {clock(e['ts'])} UTC, decided at its close {row['close'] / price:,.2f}",
        [
            ("score", f"{e['score_milli'] / 1000:.3f} of 10, entry at {p.entry_score:g}; direction {e['direction']} "
             f"(from {e['direction_from']}){'' if e['warm'] else '; WARMING'}"),
            ("parts", _parts(e, side)),
            ("phase", f"{reset['phase']} {reset['direction']}"
             + (f", imbalance since {clock(reset['start_ts'])} led by {reset['led_by']}" if reset["phase"] != "IDLE" else "")
             + (f", range {reset['reset_low'] / price:,.2f} to {reset['reset_high'] / price:,.2f}" if has_range else "")),
            ("divergence", f"armed {e['divergence']['armed']}"
             + (f", {'true' if e['divergence']['armed_true'] else 'relative'}, last held {clock(e['divergence']['held_last_ts'])}"
                if e["divergence"]["armed"] != "NEUTRAL" else "")
             + f"; needs a gap of {p.divergence_min:g} swings over 900 or 1800 s"),
            ("context", f"{e['context']['value']:+.3f} ({e['context']['direction']} from {p.context_enter:g}); expected duration "
             f"{e['context']['expected_duration']}"),
            ("open interest", _interest(interest, p, report.qty_decimals, report.asset)),
            ("entry", "nothing blocks it" if not blocked else "blocked: " + "; ".join(blocked)),
        ],
    )  # fmt: skip
    made = table("Flow by window (million USD; z in today's swings)", "window", "spot", "perp", "z spot", "z perp", "gap",
                 "gap / its swing", "return", "z return", right=("window", "spot", "perp", "z spot", "z perp", "gap",
                 "gap / its swing", "return", "z return"))  # fmt: skip
    for seconds, w in e["windows"].items():
        made.add_row(
            f"{int(seconds):,} s", f"{w['spot_delta_cents'] / 1e8:+.3f}", f"{w['perp_delta_cents'] / 1e8:+.3f}", f"{w['z_spot']:+.2f}",
            f"{w['z_perp']:+.2f}", f"{w['gap']:+.2f}", f"{w['m']:.2f}", f"{w['return_nano'] / 1e7:+.3f} %", f"{w['z_return']:+.2f}",
        )  # fmt: skip
    out.print(made)


def _parts(e: dict[str, Any], side: int) -> str:
    parts = e["parts"]
    direction = {"BULLISH": 1, "BEARISH": -1}.get(e["direction"], side)
    mine = parts["short" if direction < 0 else "long"]
    vote = {"confirms": "+1", "denies": "−1", "silent": "0"}[e["open_interest"]["vote"]]
    return (
        f"reset deceleration {mine['reset_deceleration']:.2f}/3.5 ({mine['tests']} tests), absorption "
        f"{mine['absorption']:.2f}/2.5 ({len(mine['absorbing_candles'])} candles), failed breakdown {mine['failed_breakdown']:.2f}/2 "
        f"({len(mine['attempts'])} attempts), bias {parts['directional_bias']:.2f}/2, open interest {vote}"
    )


def _interest(seen: dict[str, Any], p: Any, decimals: int, asset: str) -> str:
    if not seen["known_at"]:
        return "none is known"
    state = "stale" if seen["stale_or_missing"] else seen["vote"]
    return (
        f"{seen['value'] / 10**decimals:,.0f} {asset}, known at {clock(seen['known_at'])} "
        f"({seen['age_s']} s old, limit {seen['age_s_max']}); change over 1800 s {seen['z']:+.2f} swings, votes at ±{p.oi_vote:g}: {state}"
    )


def _percent(value: float) -> str:
    return f"{100 * value:+.2f} %"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _money(value_e8: int) -> str:
    return f"{value_e8 / USD_E8:,.2f}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()) or "none"


def report(answer: Any) -> None:
    """Show where a report page is, its verdict and headline numbers."""
    for number, run in enumerate(answer.runs, 1):
        for warning in run.warnings:
            out.print(f"note: {warning}", style="yellow")
        pairs(
            f"{'Report' if len(answer.runs) == 1 else f'Run {number}'}: {run.name}, run {run.run_id[:12]}",
            [
                ("verdict", f"{run.verdict.word}. {run.verdict.sentence}"),
                *((_MARKS[reason.points], reason.text) for reason in run.verdict.reasons),
                *((figure.label.lower(), _figure(figure)) for figure in run.headline),
                *((f"placebo, {p.title.lower()}", f"p = {p.p_value:.3f} among {len(p.values)}") for p in run.placebos),
            ],
        )
        out.print()
    if answer.comparison is not None:
        _comparison(answer.comparison)
    if answer.path:
        out.print(f"page: {answer.path} ({answer.size / 1e6:.1f} MB)", soft_wrap=True)
    if answer.note:
        out.print(f"note: {answer.note}", style="yellow")


_MARKS = {1: "  holds", -1: "  fails", 0: "  says"}


def _comparison(comparison: Any) -> None:
    """List what was asked differently, and the trades that differ."""
    for name, values in comparison.spec:
        out.print(f"{name}: {' | '.join(values)}")
    made = table(
        f"{comparison.shared} trades alike, {len(comparison.differences)} differ, the largest of them", "entry", "asset", "side",
        "result by run, USD", "why",
    )  # fmt: skip
    largest = sorted(comparison.differences, key=lambda d: -max(abs(pnl or 0.0) for pnl in d.pnl_usd))[
        :DIFFERENCES_SHOWN
    ]
    for d in sorted(largest, key=lambda d: d.entry_ts):
        results = " | ".join("not taken" if pnl is None else usd(pnl, 2) for pnl in d.pnl_usd)
        made.add_row(clock(d.entry_ts), d.asset, "long" if d.direction > 0 else "short", results, d.why)
    out.print(made)


def _figure(figure: Any) -> str:
    """Write a figure with its unit and its interval."""
    if figure.value is None:
        return "not defined"
    text = _in_unit(figure.value, figure.unit)
    if figure.low is None:
        return text
    return f"{text}   95 %: {_in_unit(figure.low, figure.unit)} to {_in_unit(figure.high, figure.unit)}"


def _in_unit(value: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * value:.2f} %"
    suffix = {"usd": " USD", "bps": " bp"}.get(unit, "")
    return f"{value:,.0f}" if unit == "count" else f"{value:,.2f}{suffix}"


_VERDICTS = {
    "equal": ("equal", "green"),
    "different": ("DIFFERENT", "red"),
    "unproved": ("nothing could be compared", "yellow"),
}


def certificate(found: Any) -> None:
    """Show what a day of live trading came to when it was proved again."""
    word, colour = _VERDICTS[found.verdict]
    seconds = f"{clock(found.from_ts)} to {clock(found.until_ts)}, {found.seconds:,} seconds of rows, {found.repaired} repaired since"
    pairs(
        f"Certificate: account {found.account}, {found.day}",
        [
            ("verdict", f"[{colour}]{word}[/]"),
            ("trading", seconds if found.until_ts else "not looked at"),
            ("code", f"{found.code_version[:12]}, live {', '.join(code[:12] for code in found.live_code_versions) or 'unknown'}"),
            ("parameters", f"{', '.join(name[:12] for name in found.params_hashes) or 'no signal'}, plan {found.plan_hash[:12]}"),
        ],
    )  # fmt: skip
    made = table("", "what", "compared", "stored", "again", "result", right=("compared",))
    for proof in found.proofs:
        result = {True: "equal", False: "DIFFERENT", None: "not proved"}[proof.equal]
        made.add_row(proof.what, f"{proof.count:,}", proof.stored_hash[:16], proof.again_hash[:16], result)
    out.print(made)
    for proof in found.proofs:
        if proof.difference is not None:
            place = proof.difference
            out.print(f"{proof.what} part at {clock(place.ts)} (second {place.ts}), {place.name}:", style="red")
            out.print(f"  stored {place.stored}\n  again  {place.again}", markup=False, soft_wrap=True)
    notes: dict[str, list[str]] = {}
    for proof in found.proofs:
        if proof.note:
            notes.setdefault(proof.note, []).append(proof.what)
    for note, what in notes.items():
        out.print(f"note: {', '.join(what)}: {note}", style="yellow", soft_wrap=True)
