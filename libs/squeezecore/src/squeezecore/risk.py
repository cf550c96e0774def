"""May we? Limits as pure functions of an order and a frozen view of the account: accepted, or denied with limit and value.

An *exit*, that is an order that can only bring a position closer to zero, is denied for being malformed and for nothing
else: no switch, no loss, no stale feed may keep us in a position. Everything else is an *entry* and must pass all limits,
counted as if it and every open entry were filled completely at the last close. So an accepted entry breaks no limit, and
a tighter limit never accepts more.

`size` cuts a wish to what `check` will accept. This module knows no strategy, no venue and no clock: `Book.ts` is the
second that was seen last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from squeezecore.ledger import notional_usd_e8
from squeezecore.market import DAY_S, Instrument, Side
from squeezecore.schedules import grid_of
from squeezecore.spec import Limits
from squeezecore.standing import Holding, Pending, TradingState
from squeezecore.trading import USD_E8, Order, OrderKind, OrderState, OrderUpdate

__all__ = ["Holding", "Pending", "TradingState"]  # of `standing`; everything else here is to be had by its name


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """The account at the close of second `ts`, frozen. Money in usd_e8; maps are by instrument id."""

    ts: int
    equity_usd_e8: int
    day_open_usd_e8: int  # equity when the UTC day began
    week_open_usd_e8: int  # equity when the week began, Monday 00:00 UTC
    peak_usd_e8: int  # highest equity so far
    instruments: Mapping[str, Instrument]
    last_close: Mapping[str, int]  # price scale
    last_data_ts: Mapping[str, int]  # second of the newest row
    holdings: tuple[Holding, ...] = ()
    open_orders: tuple[Pending, ...] = ()
    orders_last_minute: int = 0
    state: TradingState = TradingState.ACTIVE
    kill_switch: bool = False
    clusters: tuple[tuple[str, ...], ...] = ()  # assets that move together; see `clusters`
    gross_usd_e8: int = 0  # notional of all positions at their marks

    def with_order(self, order: Order) -> Book:
        """Return the book with one more open order, as the next one to be asked for must see it."""
        orders = (*self.open_orders, Pending(order, order.qty))
        return msgspec.structs.replace(self, open_orders=orders, orders_last_minute=self.orders_last_minute + 1)

    def qty_of(self, instrument: str) -> int:
        """Return the signed position in an instrument."""
        return sum(holding.qty for holding in self.holdings if holding.instrument == instrument)


class Denied(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Our risk refused; it carries the limit and the value that broke it, as data and as text."""

    limit_name: str
    limit: float
    value: float
    unit: str
    message: str

    def update(self, order: Order, ts: int) -> OrderUpdate:
        """Return the word that goes to whoever asked."""
        return OrderUpdate(
            order_id=order.id, ts=ts, state=OrderState.DENIED, reason=self.message,
            limit=f"{self.limit_name} {self.limit:g} {self.unit}".rstrip(), value=f"{self.value:g}",
        )  # fmt: skip


class EquityMarks(NamedTuple):
    """What the loss limits measure from; `advance` carries it on."""

    day: int  # UTC days since 1970
    week: int  # weeks beginning on Monday
    day_open_usd_e8: int
    week_open_usd_e8: int
    peak_usd_e8: int


def marks_at(ts: int, equity_usd_e8: int) -> EquityMarks:
    """Start measuring."""
    day = ts // DAY_S
    return EquityMarks(day, (day + 3) // 7, equity_usd_e8, equity_usd_e8, equity_usd_e8)  # 1970-01-01 was a Thursday


def advance(marks: EquityMarks, ts: int, equity_usd_e8: int) -> EquityMarks:
    """Carry the marks over second `ts`; the first second seen of a day or week opens it, with the equity at its close."""
    day, week = ts // DAY_S, (ts // DAY_S + 3) // 7
    return EquityMarks(
        day,
        week,
        marks.day_open_usd_e8 if day == marks.day else equity_usd_e8,
        marks.week_open_usd_e8 if week == marks.week else equity_usd_e8,
        max(marks.peak_usd_e8, equity_usd_e8),
    )


def check(order: Order, book: Book, limits: Limits) -> Denied | None:
    """Return what forbids an order, or None when nothing does."""
    fault = malformed(order, book)
    if fault is not None or is_exit(order, book):
        return fault
    for test in (_switches, _data, _losses, _rate, _notional, _exposure):
        fault = test(order, book, limits)
        if fault is not None:
            return fault
    return None


def is_exit(order: Order, book: Book) -> bool:
    """Tell whether an order can only bring a position closer to zero, whatever else of ours fills before it.

    `reduce_only` is kept by the venue. Without it, the order and all open orders of its side must fit into the position.
    """
    held = book.qty_of(order.instrument)
    if held * order.side.sign >= 0:
        return False
    pending = sum(
        p.remaining for p in book.open_orders if p.order.instrument == order.instrument and p.order.side is order.side
    )
    return order.reduce_only or order.qty + pending <= abs(held)


def malformed(order: Order, book: Book) -> Denied | None:
    """Return what makes an order impossible to understand, the only thing that may deny an exit."""
    instrument = book.instruments.get(order.instrument)
    if instrument is None:
        known = ", ".join(sorted(book.instruments))
        return _denied(order, "instrument", 0, 0, "", f"instrument was {order.instrument}, known are {known}")
    grid = grid_of(instrument, book.ts)
    if order.side is Side.NONE:
        return _denied(order, "side", 0, 0, "", "side was NONE, must be BUY or SELL")
    if order.qty <= 0 or order.qty % grid.lot:
        text = f"qty was {order.qty}, must be a positive multiple of the lot {grid.lot}"
        return _denied(order, "lot", grid.lot, order.qty, "qty units", text)
    if order.kind is not OrderKind.MARKET and (order.price <= 0 or order.price % grid.tick):
        text = f"price was {order.price}, must be a positive multiple of the tick {grid.tick}"
        return _denied(order, "tick", grid.tick, order.price, "price units", text)
    return None


def size_factor(book: Book, limits: Limits) -> float:
    """Return what sizes are multiplied with in a drawdown: 1 until the taper starts, linearly down to 0 at the maximum."""
    fall = _fall(book.peak_usd_e8, book.equity_usd_e8)
    if fall >= limits.drawdown_max:
        return 0.0
    if fall <= limits.drawdown_taper_start:
        return 1.0
    return (limits.drawdown_max - fall) / (limits.drawdown_max - limits.drawdown_taper_start)


class Sized(NamedTuple):
    """A size, and which bound decided it: `risk` when nothing cut it."""

    qty: int  # qty scale, whole lots; 0 = do not trade
    cut_by: str


def size(
    book: Book,
    limits: Limits,
    *,
    asset: str,
    instrument: str,
    side: Side,
    stop_distance: float,
    risk_fraction: float,
    leverage_cap: float,
) -> Sized:
    """Size an entry by strategy.md section 8 at the last close, cut to the leverage cap, lots and every limit.

    `risk_fraction` is risk per trade × the tier's size, `stop_distance` a log return > 0 (already at least its minimum),
    `leverage_cap` the tier's. Notional = equity × risk_fraction × taper / stop_distance. Leverage only caps.
    """
    traded, close = book.instruments[instrument], book.last_close[instrument]
    equity = max(0, book.equity_usd_e8)
    factor = size_factor(book, limits)
    wish = math.floor(equity * (risk_fraction * factor / stop_distance))
    here = _worst(book, instrument, side)
    gross, count = _gross(book)
    others = sum(gross.values()) - gross.get(instrument, 0)
    mates = _cluster_of(asset, book)
    together = sum(value for name, value in gross.items() if name != instrument and _asset_of(name, book) in mates)
    rooms = {
        "risk": wish,
        "leverage_cap": math.floor(equity * leverage_cap) - here,
        "order_notional_usd_max": _order_max(book, limits),
        "position_notional_usd_max": limits.position_notional_usd_max * USD_E8 - here,
        "leverage_max": math.floor(equity * limits.leverage_max) - others - here,
        "correlated_exposure_max": math.floor(equity * limits.correlated_exposure_max) - together - here,
    }
    if instrument not in gross and count + 1 > limits.open_positions_max:
        rooms["open_positions_max"] = 0
    # an open order of the other side may already fill what this order would leave room for
    for name, used in (("leverage_max", others), ("correlated_exposure_max", together)):
        if used + gross.get(instrument, 0) > rooms[name] + used + here:
            rooms[name] = 0
    cut_by = min(rooms, key=lambda name: rooms[name])
    return Sized(_lots(traded, close, rooms[cut_by], book.ts), cut_by)


def correlations(returns: Mapping[str, Sequence[int]]) -> dict[tuple[str, str], float]:
    """Return the correlation of each pair of assets from integer returns of the same hours or days, oldest first.

    Sums are exact integers, so the result does not depend on order or machine. Pairs use what both have, the newest part;
    with fewer than two returns, or none that moves, the pair is given 0.
    """
    names = sorted(returns)
    result = {}
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            n = min(len(returns[first]), len(returns[second]))
            xs = [int(x) for x in returns[first][len(returns[first]) - n :]]
            ys = [int(y) for y in returns[second][len(returns[second]) - n :]]
            sx, sy = sum(xs), sum(ys)
            covariance = n * sum(x * y for x, y in zip(xs, ys, strict=True)) - sx * sy
            spread = (n * sum(x * x for x in xs) - sx * sx) * (n * sum(y * y for y in ys) - sy * sy)
            result[first, second] = covariance / math.sqrt(spread) if n > 1 and spread > 0 else 0.0
    return result


def clusters(pairs: Mapping[tuple[str, str], float], correlation_min: float) -> tuple[tuple[str, ...], ...]:
    """Group assets that a chain of correlations ≥ `correlation_min` connects; a lower minimum only merges groups.

    >>> clusters({("BTC", "ETH"): 0.9, ("BTC", "XMR"): 0.2, ("ETH", "XMR"): 0.85}, 0.8)
    (('BTC', 'ETH', 'XMR'),)
    """
    group = {name: name for pair in pairs for name in pair}

    def head(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for (first, second), value in sorted(pairs.items()):
        if value >= correlation_min:
            low, high = sorted((head(first), head(second)))
            group[high] = low
    members: dict[str, list[str]] = {}
    for name in sorted(group):
        members.setdefault(head(name), []).append(name)
    return tuple(tuple(names) for _, names in sorted(members.items()))


# --- the limits, in the order in which they are asked ---


def _switches(order: Order, book: Book, _: Limits) -> Denied | None:
    if book.kill_switch:
        return _denied(order, "kill_switch", 0, 1, "", "kill switch is on: release it before new entries")
    if book.state is not TradingState.ACTIVE:
        text = f"trading state was {book.state}, entries need active: only exits pass"
        return _denied(order, "trading_state", 0, 1, "", text)
    return None


def _data(order: Order, book: Book, limits: Limits) -> Denied | None:
    seen = book.last_data_ts.get(order.instrument)
    age = book.ts - seen if seen is not None else None
    if age is None or age > limits.stale_data_s_max:
        text = (
            f"newest data was {'never seen' if age is None else f'{age} s old'}, limit is {limits.stale_data_s_max} s"
        )
        value = math.inf if age is None else age
        return _denied(order, "stale_data_s_max", limits.stale_data_s_max, value, "s", text)
    close = book.last_close.get(order.instrument, 0)
    if close <= 0:
        return _denied(order, "last_close", 1, close, "price units", "there is no last close to value the order at")
    if order.kind is OrderKind.MARKET:
        return None
    away = abs(order.price - close) / close
    if away > limits.price_collar:
        text = f"price was {away:.4%} from the last close {close}, limit is {limits.price_collar:.4%}"
        return _denied(order, "price_collar", limits.price_collar, away, "of the last close", text)
    return None


def _losses(order: Order, book: Book, limits: Limits) -> Denied | None:
    for name, opened, limit in (
        ("daily_loss_max", book.day_open_usd_e8, limits.daily_loss_max),
        ("weekly_loss_max", book.week_open_usd_e8, limits.weekly_loss_max),
        ("drawdown_max", book.peak_usd_e8, limits.drawdown_max),
    ):
        fall = _fall(opened, book.equity_usd_e8)
        if fall >= limit:
            text = f"loss was {fall:.2%} of {_usd(opened)} USD, limit is {limit:.2%}"
            return _denied(order, name, limit, fall, "of equity", text)
    return None


def _rate(order: Order, book: Book, limits: Limits) -> Denied | None:
    count, limit = book.orders_last_minute + 1, limits.orders_per_minute_max
    if count > limit:
        text = f"orders in the last minute were {count}, limit is {limit}"
        return _denied(order, "orders_per_minute_max", limit, count, "orders", text)
    return None


def _notional(order: Order, book: Book, limits: Limits) -> Denied | None:
    value, limit = _value(order, book), _order_max(book, limits)
    if value > limit:
        return _too_much(order, "order_notional_usd_max", limit, value)
    held, most = _worst(book, order.instrument, order.side) + value, limits.position_notional_usd_max * USD_E8
    if held > most:
        return _too_much(order, "position_notional_usd_max", most, held)
    return None


def _exposure(order: Order, book: Book, limits: Limits) -> Denied | None:
    gross, count = _gross(book)
    if order.instrument not in gross and count + 1 > limits.open_positions_max:
        text = f"open positions would be {count + 1}, limit is {limits.open_positions_max}"
        return _denied(order, "open_positions_max", limits.open_positions_max, count + 1, "positions", text)
    worst = _worst(book, order.instrument, order.side) + _value(order, book)
    after = {**gross, order.instrument: max(worst, gross.get(order.instrument, 0))}
    mates = _cluster_of(order.asset, book)
    together = sum(v for name, v in after.items() if name == order.instrument or _asset_of(name, book) in mates)
    for name, exposure, limit in (
        ("leverage_max", sum(after.values()), limits.leverage_max),
        ("correlated_exposure_max", together, limits.correlated_exposure_max),
    ):
        if exposure > math.floor(max(0, book.equity_usd_e8) * limit):
            value = exposure / book.equity_usd_e8 if book.equity_usd_e8 > 0 else math.inf
            text = f"exposure would be {_usd(exposure)} USD = {value:.2f} × equity, limit is {limit:g} × equity"
            return _denied(order, name, limit, value, "x equity", text)
    return None


# --- leaves ---


def _value(order: Order, book: Book) -> int:
    """Return an order's notional at the last close, or at its own price where that is higher."""
    price = max(book.last_close[order.instrument], order.price)
    return notional_usd_e8(book.instruments[order.instrument], price, order.qty)


def _order_max(book: Book, limits: Limits) -> int:
    return math.floor(limits.order_notional_usd_max * USD_E8 * size_factor(book, limits))


def _worst(book: Book, instrument: str, side: Side) -> int:
    """Return the notional towards `side` when every open entry of that side has filled; an opposite position counts 0."""
    held = max(0, side.sign * book.qty_of(instrument))
    traded, close = book.instruments[instrument], book.last_close.get(instrument, 0)
    total = notional_usd_e8(traded, close, held)
    for pending in book.open_orders:
        order = pending.order
        if order.instrument == instrument and order.side is side and not order.reduce_only:
            total += notional_usd_e8(traded, max(close, order.price), pending.remaining)
    return total


def _gross(book: Book) -> tuple[dict[str, int], int]:
    """Return the worst notional of each instrument held or about to be, and how many those are."""
    names = {holding.instrument for holding in book.holdings if holding.qty}
    names |= {pending.order.instrument for pending in book.open_orders if not pending.order.reduce_only}
    gross = {name: max(_worst(book, name, Side.BUY), _worst(book, name, Side.SELL)) for name in sorted(names)}
    return gross, len(gross)


def _asset_of(instrument: str, book: Book) -> str:
    for holding in book.holdings:
        if holding.instrument == instrument:
            return holding.asset
    for pending in book.open_orders:
        if pending.order.instrument == instrument:
            return pending.order.asset
    return book.instruments[instrument].base


def _cluster_of(asset: str, book: Book) -> tuple[str, ...]:
    for cluster in book.clusters:
        if asset in cluster:
            return cluster
    return (asset,)


def _lots(instrument: Instrument, price: int, usd_e8: int, ts: int) -> int:
    """Return the largest whole-lot qty whose rounded notional at `price` is no more than `usd_e8`."""
    if usd_e8 <= 0:
        return 0
    lot = grid_of(instrument, ts).lot
    decimals = instrument.price_decimals + instrument.qty_decimals - 8
    units = usd_e8 * 10**decimals if decimals >= 0 else usd_e8 // 10**-decimals
    qty: int = units // (price * lot) * lot
    return qty


def _fall(start: int, now: int) -> float:
    return (start - now) / start if start > 0 else 1.0


def _usd(usd_e8: int) -> str:
    return f"{usd_e8 / USD_E8:.2f}"


def _too_much(order: Order, name: str, limit: int, value: int) -> Denied:
    text = f"notional was {_usd(value)} USD, limit is {_usd(limit)} USD"
    return _denied(order, name, limit / USD_E8, value / USD_E8, "USD", text)


def _denied(order: Order, name: str, limit: float, value: float, unit: str, text: str) -> Denied:
    message = f"{text}: order {order.id} on {order.instrument}"
    return Denied(limit_name=name, limit=limit, value=value, unit=unit, message=message)
