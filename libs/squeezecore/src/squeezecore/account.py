"""One account: exchange, books, what its limits measure from, and the trades it is in; the same in a backtest and live.

`settle` lets a second happen to what the account holds and has ordered, `break_off` ends both where a row is missing,
`send` asks the limits and hands an order to the exchange. What came of it is gathered in `happened`, in the order in which
it did, until somebody takes it. `standing` is the account as others may know it, and `book_of` makes of a standing and a
second's closes what engine and limits look at, here and in a process that has only heard of the standing.

This module decides nothing and knows no row: whoever calls says which seconds exist.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from squeezecore import risk
from squeezecore.engine import Entry, hard_risk
from squeezecore.exchange import Exchange, FundingEvent, Market, Payment, Settled
from squeezecore.ledger import divide_half_away, notional_usd_e8
from squeezecore.market import DAY_S, Instrument
from squeezecore.report import Trade
from squeezecore.risk import EquityMarks, TradingState
from squeezecore.spec import Costs, Limits
from squeezecore.squeeze import log_nano
from squeezecore.trading import Decision, Direction, Fill, Order, OrderState, OrderUpdate, Parts
from squeezecore.wire import Standing

MINUTE_S = 60  # orders of this many seconds count for the order rate
CLUSTER_HOURS = 168  # hourly returns behind the correlation clusters
CLUSTER_HOURS_MIN = 24


class OpenTrade(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A trade that has not ended: sums over its fills."""

    entry: Entry | None  # what was frozen when it was decided, where the decision is known here
    entry_ts: int
    entry_order_id: str
    direction: Direction
    held: int = 0  # qty scale
    bought: list[int]  # entry side: qty, notional in usd_e8, sum of price × qty
    sold: list[int]
    fees: int = 0
    slippage: int = 0
    funding: int = 0

    def add(self, fill: Fill, instrument: Instrument) -> None:
        """Count a fill."""
        entering = fill.side.sign == self.direction
        sums = self.bought if entering else self.sold
        sums[0] += fill.qty
        sums[1] += notional_usd_e8(instrument, fill.price, fill.qty)
        sums[2] += fill.price * fill.qty
        self.held += fill.qty if entering else -fill.qty
        self.fees += fill.fee_usd_e8
        self.slippage += fill.slippage_usd_e8

    def close(self, fill: Fill) -> Trade:
        """End the trade with its last fill."""
        entry, sign = self.entry, int(self.direction)
        return Trade(
            asset=fill.asset,
            instrument=fill.instrument,
            direction=self.direction,
            tier=entry.tier if entry else 1,
            score_milli=entry.score_milli if entry else 0,
            decided_ts=entry.decided_ts if entry else self.entry_ts,
            entry_ts=self.entry_ts,
            exit_ts=fill.ts,
            entry_order_id=self.entry_order_id,
            exit_order_id=fill.order_id,
            qty=self.bought[0],
            entry_price=divide_half_away(self.bought[2], self.bought[0]),
            exit_price=divide_half_away(self.sold[2], self.sold[0]),
            entry_usd_e8=self.bought[1],
            exit_usd_e8=self.sold[1],
            fees_usd_e8=self.fees,
            slippage_usd_e8=self.slippage,
            funding_usd_e8=self.funding,
            pnl_usd_e8=sign * (self.sold[1] - self.bought[1]) - self.fees + self.funding,
            level=entry.level if entry else 0,
            reason=fill.reason,
        )


class Happened:
    """What came about in an account, each list in the order in which it did."""

    def __init__(self) -> None:
        self.trades: list[Trade] = []  # that ended
        self.decisions: list[Decision] = []  # exits that no second of the market decided
        self.orders: list[Order] = []  # that were asked for
        self.updates: list[OrderUpdate] = []
        self.fills: list[Fill] = []
        self.payments: list[Payment] = []


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """What a snapshot holds."""

    exchange: bytes
    marks: EquityMarks
    open_trades: dict[str, OpenTrade]
    sent: list[int]
    hours: dict[str, list[int]]
    clusters: tuple[tuple[str, ...], ...]
    params_hash: str


class Account:
    """One account over several assets. Mutable, deterministic; a snapshot between two seconds is invisible.

    `assets` names the instrument that is traded for each asset; `entry_of` tells what was frozen when an asset's position
    was decided, where that is known. `params_hash` stands in the records of exits that nobody decided.
    """

    def __init__(
        self,
        assets: Mapping[str, Instrument],
        costs: Costs,
        limits: Limits,
        capital_usd_e8: int,
        start_ts: int,
        *,
        account: str = "paper",
        params_hash: str = "",
        entry_of: Callable[[str], Entry | None] = lambda _: None,
    ) -> None:
        self._limits, self._costs, self._entry_of = limits, costs, entry_of
        self.instruments = {instrument.id: instrument for instrument in assets.values()}
        self.exchange = Exchange(self.instruments, costs, capital_usd_e8, account=account)
        self.marks = risk.marks_at(start_ts, capital_usd_e8)
        self.clusters: tuple[tuple[str, ...], ...] = ()  # assets that move together, known when the day begins
        self.state, self.kill_switch = TradingState.ACTIVE, False
        self.params_hash = params_hash
        self.happened = Happened()
        self._open: dict[str, OpenTrade] = {}
        self._sent: deque[int] = deque()  # seconds of the last minute's orders
        self._hours: dict[str, list[int]] = {asset: [] for asset in assets}

    def take(self) -> Happened:
        """Hand over what happened since this was last called."""
        happened, self.happened = self.happened, Happened()
        return happened

    # --- one second ---

    def settle(
        self,
        ts: int,
        market: Mapping[str, Market],
        funding: Iterable[FundingEvent] = (),
        orders: Mapping[str, Order] | None = None,
    ) -> set[str]:
        """Let second `ts` happen at the exchange; `market` holds the instruments that have a row.

        Returns the assets whose position began or ended, or whose order ended without a position: the engine must see those.
        `orders` are the open orders by id, where the caller has them.
        """
        orders = self.open_orders() if orders is None else orders
        return self.book_in(self.exchange.settle(ts, market, funding), orders)

    def break_off(self, ts: int, asset: str, instrument: str, price: int, reason: str) -> None:
        """End an asset's orders, and its position at `price`, because there is no market: a hole, or the end of a run."""
        settled = self.exchange.close_out(ts, instrument, price, reason)
        self.book_in(settled, {})
        if settled.fills:
            self.happened.decisions.append(_forced(asset, ts, reason, settled, self.params_hash))

    def measure(self, ts: int) -> int:
        """Carry the marks of the loss limits over second `ts`, and return the equity at its close, usd_e8."""
        equity = self.exchange.ledger.equity_usd_e8
        if equity > self.marks.peak_usd_e8 or ts // DAY_S != self.marks.day:
            self.marks = risk.advance(self.marks, ts, equity)
        return equity

    def is_in_danger(self, equity_usd_e8: int) -> bool:
        """Tell whether a limit of the whole account closes every position now."""
        return bool(hard_risk(equity_usd_e8, self.marks.day_open_usd_e8, self.gross_usd_e8, self._limits))

    def book(self, ts: int, closes: Mapping[str, int]) -> risk.Book:
        """Show the account as it stands at the close of second `ts`; `closes` are of its rows, by instrument id."""
        while self._sent and self._sent[0] <= ts - MINUTE_S:
            self._sent.popleft()
        return book_of(self.standing(), ts, self.instruments, closes)

    def send(self, order: Order, book: risk.Book, ts: int) -> risk.Book:
        """Ask the limits, then the exchange; return the book with the order in it."""
        if not self.ask(order, book, ts):
            return book
        self.submit(order, ts)
        return book.with_order(order)

    def ask(self, order: Order, book: risk.Book, ts: int) -> bool:
        """Ask the limits; a denial is written down."""
        self.happened.orders.append(order)
        denied = risk.check(order, book, self._limits)
        if denied is not None:
            self.happened.updates.append(denied.update(order, ts))
        return denied is None

    def submit(self, order: Order, ts: int) -> OrderUpdate:
        """Hand an order that the limits let pass to the exchange; one it knows changes nothing there."""
        update = self.exchange.submit(order, ts)
        self.happened.updates.append(update)
        self._sent.append(ts)
        return update

    def book_in(self, settled: Settled, orders: Mapping[str, Order]) -> set[str]:
        """Count fills and funding into trades; return the assets that the engine must see for it (`settle`).

        `orders` are those that were open before.
        """
        touched, happened = set(), self.happened
        for payment in settled.payments:
            self._open[payment.instrument].funding += payment.received_usd_e8
        for fill in settled.fills:
            trade = self._open.get(fill.instrument)
            if trade is None:
                trade = self._open[fill.instrument] = _begin(fill, self._entry_of(fill.asset))
                touched.add(fill.asset)
            trade.add(fill, self.instruments[fill.instrument])
            if trade.held == 0:
                happened.trades.append(trade.close(fill))
                del self._open[fill.instrument]
                touched.add(fill.asset)
        happened.fills += settled.fills
        happened.updates += settled.updates
        happened.payments += settled.payments
        for update in settled.updates:
            order = orders.get(update.order_id)
            if order is None or update.state is OrderState.PARTIAL:
                continue
            if order.reduce_only or not self.exchange.ledger.qty_of(order.instrument):
                touched.add(order.asset)  # an entry that ends with a position changes nothing for its exits
        return touched

    # --- how it stands ---

    @property
    def gross_usd_e8(self) -> int:
        """Return the notional of all positions at their marks."""
        ledger = self.exchange.ledger
        return sum(abs(ledger.value_of(name)) for name in ledger.positions)

    def open_orders(self) -> dict[str, Order]:
        """Return the open orders by id."""
        return {order.id: order for order, _ in self.exchange.open_orders()}

    def involved(self) -> list[str]:
        """Return the assets with a position or an open order, by name."""
        names = {order.asset for order, _ in self.exchange.open_orders()}
        names |= {position.asset for position in self.exchange.ledger.positions.values()}
        return sorted(names)

    def standing(self) -> Standing:
        """Return the account as it stands after the last second that was measured."""
        ledger, marks = self.exchange.ledger, self.marks
        return Standing(
            equity_usd_e8=ledger.equity_usd_e8,
            day_open_usd_e8=marks.day_open_usd_e8,
            week_open_usd_e8=marks.week_open_usd_e8,
            peak_usd_e8=marks.peak_usd_e8,
            gross_usd_e8=self.gross_usd_e8,
            holdings=tuple(
                risk.Holding(asset=p.asset, instrument=name, qty=p.qty) for name, p in sorted(ledger.positions.items())
            ),
            open_orders=tuple(risk.Pending(order, rest) for order, rest in self.exchange.open_orders()),
            sent_ts=tuple(self._sent),
            clusters=self.clusters,
            state=self.state,
            kill_switch=self.kill_switch,
        )

    # --- days ---

    def begin_day(self) -> None:
        """Group assets by the correlation of their hourly returns over the last week; holds until the next day begins."""
        known = {asset: closes for asset, closes in self._hours.items() if len(closes) > CLUSTER_HOURS_MIN}
        if len(known) < 2:
            self.clusters = ()
            return
        hours = min(map(len, known.values()))
        returns = {asset: _hourly_returns(closes[-hours:]) for asset, closes in known.items()}
        self.clusters = risk.clusters(risk.correlations(returns), self._limits.correlation_min)

    def end_day(self, asset: str, hour_closes: Sequence[int]) -> None:
        """Take an asset's last close of each of the day's 24 hours, 0 where an hour had no row."""
        self._hours[asset] = [*self._hours[asset], *hour_closes][-CLUSTER_HOURS - 1 :]

    # --- a cut in time ---

    def to_bytes(self) -> bytes:
        """Write the whole state, but what happened and was not taken; assets, costs and limits are given again."""
        kept = _Kept(
            self.exchange.to_bytes(), self.marks, self._open, list(self._sent), self._hours, self.clusters, self.params_hash
        )  # fmt: skip
        return msgspec.msgpack.encode(kept)

    def restore(self, data: bytes) -> None:
        """Take over what `to_bytes` wrote; assets it does not know start without history."""
        kept = msgspec.msgpack.decode(data, type=_Kept)
        self.exchange = Exchange.from_bytes(kept.exchange, self.instruments, self._costs)
        self.marks, self.clusters, self.params_hash = kept.marks, kept.clusters, kept.params_hash
        self._open, self._sent = kept.open_trades, deque(kept.sent)
        self._hours = {asset: kept.hours.get(asset, []) for asset in self._hours}
        self.happened = Happened()


def book_of(standing: Standing, ts: int, instruments: Mapping[str, Instrument], closes: Mapping[str, int]) -> risk.Book:
    """Show an account to engine and limits at the close of second `ts`.

    `standing` is that of `ts`, or of an earlier second of the same UTC day since which the account held and ordered nothing
    (then only the order rate ages). `instruments` and `closes` are by instrument id, `closes` of the rows of this second.
    """
    return risk.Book(
        ts=ts,
        equity_usd_e8=standing.equity_usd_e8,
        day_open_usd_e8=standing.day_open_usd_e8,
        week_open_usd_e8=standing.week_open_usd_e8,
        peak_usd_e8=standing.peak_usd_e8,
        instruments=instruments,
        last_close=closes,
        last_data_ts=dict.fromkeys(closes, ts),
        holdings=standing.holdings,
        open_orders=standing.open_orders,
        orders_last_minute=sum(sent > ts - MINUTE_S for sent in standing.sent_ts),
        state=standing.state,
        kill_switch=standing.kill_switch,
        clusters=standing.clusters,
        gross_usd_e8=standing.gross_usd_e8,
    )


# --- leaves ---


def _begin(fill: Fill, entry: Entry | None) -> OpenTrade:
    return OpenTrade(
        entry=entry, entry_ts=fill.ts, entry_order_id=fill.order_id, direction=Direction(fill.side.sign),
        bought=[0, 0, 0], sold=[0, 0, 0],
    )  # fmt: skip


def _forced(asset: str, ts: int, reason: str, settled: Settled, params_hash: str) -> Decision:
    """Record an exit that no second of the market decided."""
    return Decision(
        asset=asset, ts=ts, kind="exit", direction=Direction.NEUTRAL, score_milli=0, parts=Parts(), phase="IDLE",
        reset_low=0, reset_high=0, reason=reason, order_id=settled.fills[0].order_id, params_hash=params_hash,
    )  # fmt: skip


def _hourly_returns(closes: Sequence[int]) -> list[int]:
    """Return the hours' log returns in 1e-9; 0 where an hour has no row."""
    return [
        log_nano(after) - log_nano(before) if before > 0 and after > 0 else 0
        for before, after in itertools.pairwise(closes)
    ]
