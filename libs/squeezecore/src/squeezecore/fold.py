"""The fold of a backtest: the days' tapes in order → engine → limits → exchange → ledger, exact.

Each second is accounted for, but only those are touched in which something can happen. Rows are asked for round orders and
positions only. A *hole*, a missing row, ends a position at the last close before it (`DATA_HOLE`, taker cost); it is
reported, not raised. This module reads no clock and keeps no file; progress goes to a callback as values.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from squeezecore import report, risk, squeeze, tape
from squeezecore.account import Account, Happened
from squeezecore.backtest import DayScan, run_id
from squeezecore.engine import RANGE_S, Engine, Look, SecondView, loss_floor_usd_e8, view_at
from squeezecore.errors import UsageError
from squeezecore.exchange import FundingEvent, Market, market_at
from squeezecore.ledger import Drawdown, deepen, equity_path, notional_usd_e8
from squeezecore.market import DAY_S, FundingSeries, Instrument, Rows, empty
from squeezecore.report import DayFacts, Summary, Trade, summarise
from squeezecore.spec import BacktestSpec, canonical, day_start_s, digest
from squeezecore.squeeze import Features, params_from
from squeezecore.trading import USD_E8, Decision, ExitReason, Fill, Order, OrderUpdate

Ints = NDArray[np.int64]
ReadRows = Callable[[str, int, int], Rows]  # (asset, start_s, end_s) → the rows that exist in [start_s, end_s)

CHUNK_S = 3_600  # rows asked for at once while a position is held
PENDING_S = 20  # seconds looked at while an order is open


class DayResult(NamedTuple):
    """What one day of the fold brought; the caller may store it and forget it."""

    day: dt.date
    trades: tuple[Trade, ...]  # closed in this day, by exit
    equity_ts: Ints  # s: the last second of each minute and each second with a fill
    equity_usd_e8: Ints
    decisions: tuple[Decision, ...]  # by second, then asset
    orders: tuple[Order, ...]
    updates: tuple[OrderUpdate, ...]
    fills: tuple[Fill, ...]


class Result(NamedTuple):
    """A finished run. `closing` is what closing the last positions brought (reason `END_OF_RUN`)."""

    run_id: str
    result_hash: str
    data_hash: str  # of all days
    params_hash: str
    code_version: str
    summary: Summary
    trades: tuple[Trade, ...]
    equity_ts: Ints
    equity_usd_e8: Ints
    closing: DayResult

    def lines(self) -> list[str]:
        """Return the receipt, the summary and every trade as sorted `key=value` lines; what golden files hold."""
        head = {
            name: getattr(self, name) for name in ("run_id", "result_hash", "data_hash", "params_hash", "code_version")
        }
        return report.lines({**head, "summary": self.summary, "trade": self.trades})


class Progress(NamedTuple):
    """How far a run is; `done` of `total` asset-days."""

    stage: str  # scan | repair | fold
    day: dt.date
    done: int
    total: int


class _Lane:
    """One asset's day in the fold: its features, how far they are counted, and the rows read round positions."""

    def __init__(self, asset: str, instrument: Instrument, last_close: int) -> None:
        self.asset = asset
        self.name = instrument.id
        self.last_close = last_close  # of the day before; price scale, 0 = never seen
        self.cursor = 0  # first second that is not counted
        self.look: Look | None = None
        self.look_end_s = 0  # first second it does not cover, where it found nothing
        self.pending: tuple[Order, ...] = ()  # open orders when it was looked at
        self.take_rows(empty(Rows), 0, 0)  # a window of rows, and what was asked for to have it
        self.begin(squeeze.join([]))

    def take_rows(self, rows: Rows, start_s: int, end_s: int) -> None:
        """Take a window of rows, all that exist in [start_s, end_s)."""
        self.rows, self.rows_start_s, self.rows_end_s = rows, start_s, end_s
        self.rows_first_s = int(rows.ts[0]) if len(rows.ts) else 0
        self.rows_dense = len(rows.ts) > 0 and int(rows.ts[-1]) - self.rows_first_s == len(rows.ts) - 1

    def begin(self, features: Features) -> None:
        """Take the features of a new day."""
        self.features, self.cursor, self.look = features, 0, None
        self.count = len(features.ts)
        self.start_s = int(features.ts[0]) if self.count else 0
        self.dense = self.count > 0 and int(features.ts[-1]) - self.start_s == self.count - 1

    def index(self, ts: int) -> int:
        """Return the index of the first second at or after `ts`."""
        at = ts - self.start_s
        if self.dense and 0 <= at <= self.count:
            return at
        return int(self.features.ts.searchsorted(ts))

    def has(self, ts: int) -> bool:
        """Tell whether the second's row exists."""
        at = ts - self.start_s
        if self.dense:
            return 0 <= at < self.count
        at = int(self.features.ts.searchsorted(ts))
        return at < self.count and int(self.features.ts[at]) == ts

    def stops_at(self, ts: int) -> bool:
        """Tell whether a second was found in which something happens."""
        return self.look is not None and self.look.found and int(self.features.ts[self.look.stop]) == ts

    def covers(self, ts: int) -> bool:
        """Tell whether the window of rows holds a second and the half hour before it."""
        return self.rows_start_s <= ts + 1 - RANGE_S and ts < self.rows_end_s

    def unbroken(self, first: int, end_s: int) -> int:
        """Return the end of the contiguous seconds from index `first`, none at or after `end_s`."""
        seconds = self.features.ts
        end = self.index(end_s)
        if end > first and int(seconds[end - 1]) - int(seconds[first]) != end - 1 - first:
            end = first + 1 + int(np.argmax(np.diff(seconds[first:end]) != 1))
        return end


class Fold:
    """A run's days, in order → trades, equity, decisions. Holds what one day needs, and the points and trades so far.

    `instruments` names the traded instrument of each of the spec's assets, `funding` its settled funding where it has any.
    With `every_second` nothing is skipped: the same result, byte for byte, a thousand times slower (a test holds it).
    """

    def __init__(
        self,
        spec: BacktestSpec,
        instruments: Mapping[str, Instrument],
        funding: Mapping[str, FundingSeries] | None = None,
        code_version: str = "",
        *,
        progress: Callable[[Progress], None] | None = None,
        every_second: bool = False,
    ) -> None:
        absent = [asset for asset in spec.assets if asset not in instruments]
        if absent:
            raise UsageError(
                f"assets were {', '.join(spec.assets)}, no traded instrument is known for {', '.join(absent)}"
            )
        assets = {asset: instruments[asset] for asset in sorted(spec.assets)}
        self._spec, self._code_version = spec, code_version
        self._params = params_from(spec.params)
        self._days = spec.days()
        self._capital = spec.capital_usd * USD_E8
        self._engine = Engine(self._params, assets, spec.costs, spec.limits, spec.account)
        self._account = Account(
            assets, spec.costs, spec.limits, self._capital, day_start_s(spec.start), account=spec.account,
            params_hash=self._params.hash, entry_of=self._engine.entry_of,
        )  # fmt: skip
        self._by_id, self._exchange = self._account.instruments, self._account.exchange
        self._lanes = {asset: _Lane(asset, instrument, 0) for asset, instrument in assets.items()}
        self._funding = funding_events(assets, funding or {})
        self._funding_next = 0
        self._drawdown = Drawdown(self._capital, 0, 0.0)
        self._every_second = every_second
        self._progress = progress
        self._done = 0
        self._held_s = self._run_s = self._records = self._repaired = 0
        self._facts: list[DayFacts] = []
        self._trades: list[Trade] = []
        self._points: list[tuple[Ints, Ints]] = []
        self._data = hashlib.blake2b(digest_size=16)
        self._day = _Day(spec.start)
        self._read: ReadRows = _no_rows

    # --- days ---

    def add_day(
        self,
        day: dt.date,
        scans: Mapping[str, DayScan],
        read_rows: ReadRows,
        features: Mapping[str, Features] | None = None,
    ) -> DayResult:
        """Fold one day; days must come in the spec's order, each once.

        `scans` holds the day of each asset (an absent one is a hole of a day), seams repaired. `read_rows` is asked for
        rows of this day and of the half hour before it. `features` are what the tapes hold, of assets whose caller has them.
        """
        if self._done == len(self._days) or day != self._days[self._done]:
            expected = self._days[self._done] if self._done < len(self._days) else "none, all are done"
            raise UsageError(f"day was {day}, the next to fold is {expected}: fold the days in order, each once")
        self._day, self._read = _Day(day), read_rows
        self._account.begin_day()
        for asset, lane in self._lanes.items():
            scan = scans.get(asset) or _absent(asset, day)
            found = (features or {}).get(asset)
            lane.begin(found or (tape.unpack(scan.tape) if scan.tape else squeeze.join([])))
            self._data.update(f"{asset} {day} {scan.data_hash}\n".encode())
            self._facts.append(scan.facts)
        self._run(self._day.start_s, self._day.start_s + DAY_S)
        for asset, lane in self._lanes.items():
            scan = scans.get(asset) or _absent(asset, day)
            lane.last_close = scan.last_close or lane.last_close
            self._account.end_day(asset, scan.hour_closes)
        self._done += 1
        self._run_s += DAY_S
        self._drawdown = deepen(self._drawdown, self._day.equity)
        if self._progress is not None:
            self._progress(Progress("fold", day, self._done, len(self._days)))
        return self._keep(self._day.result(self._account.take()))

    def finish(self, seams_repaired: int = 0) -> Result:
        """Close what is still open at the last close, add up, and sign the result."""
        if self._done < len(self._days):
            raise UsageError(f"days folded were {self._done}, the run has {len(self._days)}: fold all, then finish")
        end_s = day_start_s(self._days[-1]) + DAY_S
        self._day = _Day(self._days[-1])
        for asset, lane in self._lanes.items():
            if self._exchange.ledger.qty_of(lane.name):
                self._account.break_off(end_s, asset, lane.name, lane.last_close, ExitReason.END_OF_RUN)
        equity = self._exchange.ledger.check()
        self._drawdown = deepen(self._drawdown, np.array([equity]))
        closing = self._keep(self._day.closing(self._account.take(), end_s, equity))
        summary = summarise(
            self._trades, self._facts, capital_usd_e8=self._capital, equity_usd_e8=equity, drawdown=self._drawdown,
            seconds_held=self._held_s, seconds_run=self._run_s, records=self._records, seams_repaired=seams_repaired,
        )  # fmt: skip
        return self._sign(summary, closing)

    def _keep(self, result: DayResult) -> DayResult:
        self._trades += result.trades
        self._points.append((result.equity_ts, result.equity_usd_e8))
        self._records += len(result.decisions)
        return result

    def _sign(self, summary: Summary, closing: DayResult) -> Result:
        spec = canonical(self._spec)
        ts, equity = (np.concatenate([points[n] for points in self._points]) for n in range(2))
        data = self._data.hexdigest()
        trades = tuple(self._trades)
        signed = digest(
            spec, self._code_version.encode(), data.encode(), b"\n".join(canonical(trade) for trade in trades),
            ts.astype("<i8").tobytes(), equity.astype("<i8").tobytes(),
        )  # fmt: skip
        return Result(
            run_id(self._spec, self._code_version), signed, data, self._params.hash, self._code_version,
            summary, trades, ts, equity, closing,
        )  # fmt: skip

    # --- time ---

    def _run(self, now: int, end: int) -> None:
        """Go through [now, end): quiet spans in one pass, eventful seconds one by one."""
        while now < end:
            target, eventful = self._next_event(now, end)
            reached = self._rest(now, target) if target > now else now
            if reached < target:
                target, eventful = reached, True
            now = target
            if eventful and now < end:
                now = self._work(now, end)
            for lane in self._lanes.values():
                if lane.look is not None and not lane.look.found and lane.look_end_s <= now:
                    self._catch_up(lane, now)

    def _next_event(self, now: int, end: int) -> tuple[int, bool]:
        """Return the next second in [now, end) that must be stepped (True), or up to which can be rested (False)."""
        if self._every_second:
            there = not self._exchange.idle or any(lane.has(now) for lane in self._lanes.values())
            return (now, True) if there else (now + 1, False)
        orders = self._exchange.open_orders()
        target, eventful = (now, True) if orders else (end, False)
        for asset, lane in self._lanes.items():
            if lane.look is None:
                lane.pending = tuple(order for order, _ in orders if order.asset == asset)
            elif orders:
                continue  # this second is stepped anyhow
            at, needed = self._next_of(lane, now, end)
            if at < target or (at == target and needed):
                target, eventful = at, needed
        if self._exchange.ledger.positions:
            funded = self._next_funding(now)
            if funded <= target and funded < end:
                return funded, True
        return target, eventful

    def _next_of(self, lane: _Lane, now: int, end: int) -> tuple[int, bool]:
        """Return the next second that one asset needs stepped, or up to which it was looked at."""
        engaged = bool(lane.pending) or self._exchange.ledger.qty_of(lane.name) != 0
        if lane.look is None:
            if engaged and not lane.has(now):
                return now, True  # a hole begins
            lane.cursor = lane.index(now)
            lane.look = self._look(lane, lane.cursor, end)
        if lane.look.found:
            return int(lane.features.ts[lane.look.stop]), True
        return lane.look_end_s, engaged and lane.look_end_s < end and not lane.has(lane.look_end_s)

    def _look(self, lane: _Lane, first: int, end: int) -> Look:
        """Look at an asset's seconds from index `first` to second `end`: all while it is flat, else as far as rows go."""
        features = lane.features
        lane.look_end_s = end
        if not lane.pending and self._engine.entry_of(lane.asset) is None:
            window = lane.rows if first < len(features.ts) and lane.covers(int(features.ts[first])) else None
            return self._engine.look(lane.asset, features, first, lane.index(end), window)
        start_s = int(features.ts[first])
        stop = lane.unbroken(first, min(start_s + (PENDING_S if lane.pending else CHUNK_S), end))
        lane.look_end_s = start_s + stop - first
        at = self._reach(lane, start_s, lane.look_end_s)
        return self._engine.look(lane.asset, features, first, stop, lane.rows, at, pending=lane.pending)

    def _catch_up(self, lane: _Lane, ts: int) -> None:
        """Let the engine count and record an asset's seconds before `ts`."""
        end = lane.index(ts)
        look, lane.look = lane.look, None
        while lane.cursor < end:
            if look is None or look.first != lane.cursor or look.stop > end:
                look = self._look(lane, lane.cursor, ts)
            assert not look.found or look.stop >= end, (
                f"{lane.asset}: second {ts} was to be reached, something stands at index {look.stop}"
            )
            self._day.decisions += self._engine.skip(look)
            lane.cursor, look = look.stop, None

    def _rest(self, now: int, target: int) -> int:
        """Account for the quiet seconds [now, target); return the first one that is not quiet after all."""
        ledger, first = self._exchange.ledger, now - self._day.start_s
        if not ledger.positions:
            equity = ledger.equity_usd_e8
            self._day.equity[first : target - self._day.start_s] = equity
            self._account.marks = risk.advance(self._account.marks, now, equity)
            return target
        columns = {}
        for lane in self._lanes.values():
            if ledger.qty_of(lane.name):
                at = self._reach(lane, now, target)
                columns[lane.name] = lane.rows.mark[at : at + target - now]
        path = ledger.equity_path(columns)
        marks = risk.advance(self._account.marks, now, int(path[0]))
        quiet = self._until_hard_risk(path, columns, marks.day_open_usd_e8)
        if quiet:
            past = {name: column[:quiet] for name, column in columns.items()}
            path = self._exchange.skip(now + quiet - 1, past, path[:quiet])
            quiet = len(path)  # shorter where the exchange would liquidate
        if quiet:
            self._account.marks = marks._replace(peak_usd_e8=max(marks.peak_usd_e8, int(path.max())))
            self._day.equity[first : first + quiet] = path
            self._held_s += quiet
        return now + quiet

    def _until_hard_risk(self, path: Ints, marks: Mapping[str, Ints], day_open_usd_e8: int) -> int:
        """Return how many seconds of a span no hard limit of the account is broken in."""
        limits, positions = self._spec.limits, self._exchange.ledger.positions
        floor = loss_floor_usd_e8(day_open_usd_e8, limits)
        distance, lowest = limits.liquidation_distance_min, int(path.min())
        gross_max = sum(
            abs(notional_usd_e8(self._by_id[name], int(column.max()), positions[name].qty))
            for name, column in marks.items()
        )
        if lowest > max(floor, gross_max * distance):
            return len(path)
        broken = path <= floor
        if lowest <= gross_max * distance:
            names = list(marks)
            grid = np.array([marks[name] for name in names])
            sizes = [abs(positions[name].qty) for name in names]
            gross = equity_path(0, grid, sizes, [0] * len(names), [self._by_id[name] for name in names])
            broken |= path <= np.floor(gross * distance)
        return int(broken.argmax()) if broken.any() else len(path)

    # --- one second ---

    def _work(self, now: int, end: int) -> int:
        """Step second `now`, and those after it in which orders fill and nobody needs the engine; return the next one."""
        last = self._until_needed(now, end)
        if last == now:
            self._step(now)
            return now + 1
        involved = self._involved()
        for lane in involved:
            self._reach(lane, now, last)
        ts = now
        while ts < last:
            orders = self._account.open_orders()
            if not orders:
                return ts
            touched, done = self._fill(ts, last, orders, involved)
            if not done:
                touched, done = self._account.settle(ts, self._markets(involved, ts), (), orders), 1
                self._measure(ts, touched)
            ts += done
            if touched:
                self._decide(ts - 1, touched, self._markets(involved, ts - 1))
                return ts
        return last

    def _markets(self, lanes: Iterable[_Lane], ts: int) -> dict[str, Market]:
        return {lane.name: market_at(lane.rows, self._reach(lane, ts, ts + 1)) for lane in lanes}

    def _fill(self, ts: int, last: int, orders: Mapping[str, Order], involved: Sequence[_Lane]) -> tuple[set[str], int]:
        """Settle seconds from `ts` on in one pass where there is one plain order; return who was touched, and how many."""
        first, limits, account = ts - self._day.start_s, self._spec.limits, self._account
        if len(involved) != 1 or len(orders) != 1 or not first:
            return set(), 0  # a day's first second opens its marks
        rows, at = involved[0].rows, self._reach(involved[0], ts, last)
        columns = (rows.open, rows.high, rows.low, rows.buy_qty, rows.sell_qty, rows.mark)
        seconds = [column[at : at + last - ts] for column in columns]
        floor = loss_floor_usd_e8(account.marks.day_open_usd_e8, limits)
        ledger = account.exchange.ledger
        held = bool(ledger.positions)
        settled, equity = account.exchange.fill(ts, involved[0].name, seconds, floor, limits.liquidation_distance_min)
        done = len(equity)
        if done:
            self._day.equity[first : first + done] = equity
            account.marks = account.marks._replace(peak_usd_e8=max(account.marks.peak_usd_e8, int(equity.max())))
            holds = bool(ledger.positions)  # a position begins or ends in the last second only
            self._held_s += done - (not holds) if held else int(holds)
        return account.book_in(settled, orders), done

    def _until_needed(self, now: int, end: int) -> int:
        """Return the first second from `now` on in which an asset, funding or a hole may need more than the exchange."""
        if self._every_second or not self._exchange.open_orders():
            return now
        last = min(end, self._next_funding(now))
        for lane in self._lanes.values():
            if lane.look is None:
                return now
            last = min(last, int(lane.features.ts[lane.look.stop]) if lane.look.found else lane.look_end_s)
        return max(now, last)

    def _involved(self) -> list[_Lane]:
        """Return the assets with a position or an open order."""
        return [self._lanes[asset] for asset in self._account.involved()]

    def _step(self, ts: int) -> None:
        """Let one second happen: the exchange settles, the engine decides, the limits are asked, orders go out."""
        touched = (
            set(self._lanes) if self._every_second else {a for a, lane in self._lanes.items() if lane.stops_at(ts)}
        )
        market = {} if self._exchange.idle else self._settle(ts, touched)
        if self._measure(ts, touched):
            self._decide(ts, touched, market)

    def _measure(self, ts: int, touched: set[str]) -> bool:
        """Note the equity of a second, adding whom a hard limit concerns; return whether the engine must see anybody."""
        positions = self._exchange.ledger.positions
        equity = self._account.measure(ts)
        self._day.equity[ts - self._day.start_s] = equity
        if positions:
            self._held_s += 1
            if self._account.is_in_danger(equity):
                touched |= {position.asset for position in positions.values()}
        return bool(touched)

    def _decide(self, ts: int, touched: set[str], market: dict[str, Market]) -> None:
        """Let the engine see the touched assets at the close of a second, and send what it orders."""
        views: dict[str, SecondView] = {}
        for asset in sorted(touched):
            lane = self._lanes[asset]
            self._catch_up(lane, ts)
            if lane.has(ts):
                at = self._reach(lane, ts, ts + 1)
                views[asset] = view_at(lane.features, lane.cursor, lane.rows, at)
                lane.cursor += 1
                market.setdefault(lane.name, market_at(lane.rows, at))
        book = self._account.book(ts, {name: second.close for name, second in market.items()})
        decided = self._engine.process(ts, views, book)
        self._day.decisions += decided.decisions
        for name in decided.cancels:
            self._exchange.cancel(name, ts)
        for order in decided.orders:
            book = self._account.send(order, book, ts)

    def _settle(self, ts: int, touched: set[str]) -> dict[str, Market]:
        """Let the exchange have the second of every asset with a position or an order; holes end both.

        Adds to `touched` the assets whose orders or position began or ended: the engine must see those.
        """
        market: dict[str, Market] = {}
        broken = []
        for lane in self._involved():
            if lane.has(ts):
                at = self._reach(lane, ts, ts + 1)  # first: it may bring other rows
                market[lane.name] = market_at(lane.rows, at)
            else:
                broken.append(lane)
        touched |= self._account.settle(ts, market, self._funding_at(ts))
        for lane in broken:
            self._catch_up(lane, ts)
            self._account.break_off(ts, lane.asset, lane.name, self._close_before(lane), ExitReason.DATA_HOLE)
            touched.add(lane.asset)
        return market

    def _close_before(self, lane: _Lane) -> int:
        """Return the close of the last second that is counted."""
        if lane.cursor == 0:
            return lane.last_close
        at = self._reach(lane, int(lane.features.ts[lane.cursor - 1]), int(lane.features.ts[lane.cursor - 1]) + 1)
        return int(lane.rows.close[at])

    # --- rows, funding ---

    def _reach(self, lane: _Lane, start_s: int, end_s: int) -> int:
        """Have the rows [start_s, end_s), and the 1,799 before them, in the lane's window; return the index of the first."""
        before_s = start_s + 1 - RANGE_S
        if not (lane.covers(start_s) and end_s <= lane.rows_end_s):
            last_s = max(end_s, min(start_s + CHUNK_S, self._day.start_s + DAY_S))
            lane.take_rows(self._read(lane.asset, before_s, last_s), before_s, last_s)
        ts = lane.rows.ts
        at = start_s - lane.rows_first_s if lane.rows_dense else int(ts.searchsorted(start_s))
        end = at + end_s - start_s
        if lane.rows_dense and at >= 0 and end <= len(ts):
            return at
        if end > len(ts) or int(ts[at]) != start_s or int(ts[end - 1]) != end_s - 1:
            raise UsageError(
                f"rows of {lane.asset} for {start_s}..{end_s - 1} were not all there, the scan had seen them: "
                "scan the day again (--fresh)"
            )
        return at

    def _next_funding(self, now: int) -> int:
        while self._funding_next < len(self._funding) and self._funding[self._funding_next].event_ts < now:
            self._funding_next += 1
        if self._funding_next == len(self._funding):
            return 2**62
        return self._funding[self._funding_next].event_ts

    def _funding_at(self, ts: int) -> list[FundingEvent]:
        events = []
        while self._next_funding(ts) <= ts:
            events.append(self._funding[self._funding_next])
            self._funding_next += 1
        return events


class _Day:
    """What a day of the fold gathers."""

    def __init__(self, day: dt.date) -> None:
        self.day = day
        self.start_s = day_start_s(day)
        self.equity = np.zeros(DAY_S, np.int64)
        self.decisions: list[Decision] = []

    def result(self, happened: Happened) -> DayResult:
        """Return the day with a point of equity a minute and at each fill."""
        wanted = np.zeros(DAY_S, np.bool_)
        wanted[59::60] = True
        wanted[[fill.ts - self.start_s for fill in happened.fills]] = True
        points = np.flatnonzero(wanted)
        return self._with(happened, self.start_s + points, self.equity[points])

    def closing(self, happened: Happened, ts: int, equity: int) -> DayResult:
        """Return what the end of the run brought."""
        count = 1 if happened.fills else 0
        return self._with(happened, np.full(count, ts, np.int64), np.full(count, equity, np.int64))

    def _with(self, happened: Happened, ts: Ints, equity: Ints) -> DayResult:
        decisions = sorted(
            self.decisions + happened.decisions, key=lambda d: (d.ts, d.asset)
        )  # stable: their own order
        return DayResult(
            self.day, tuple(happened.trades), ts, equity, tuple(decisions), tuple(happened.orders),
            tuple(happened.updates), tuple(happened.fills),
        )  # fmt: skip


# --- leaves ---


def _no_rows(asset: str, start_s: int, end_s: int) -> Rows:
    raise UsageError(f"rows of {asset} for {start_s}..{end_s} were asked for before the first day")


def funding_events(assets: Mapping[str, Instrument], funding: Mapping[str, FundingSeries]) -> list[FundingEvent]:
    """Return all settlements of the traded instruments, in order of time, then instrument."""
    events = [
        FundingEvent(assets[asset].id, int(event), int(rate))
        for asset, series in funding.items()
        if asset in assets
        for event, rate in zip(series.event_ts, series.rate, strict=True)
    ]
    return sorted(events, key=lambda e: (e.event_ts, e.instrument))


def _absent(asset: str, day: dt.date) -> DayScan:
    """Stand in for a day that nobody scanned: one hole."""
    start_s = day_start_s(day)
    return DayScan(
        asset=asset, day=day, data_hash="", state_in="", state_out="", tape=b"", seconds=0, incomplete=0,
        holes=((start_s, start_s + DAY_S),), first_open=0, last_close=0, hour_closes=(0,) * 24,
    )  # fmt: skip
