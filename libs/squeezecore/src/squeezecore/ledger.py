"""The only place where money is added up: fills → positions → profit → equity, in double entry and exact integers.

Every booking is a transaction whose postings add up to zero. Assets (`CASH`, `MARGIN`) and expenses (`FEES`) are positive
when they grow, `CAPITAL` and income (`REALISED`, `FUNDING`) negative, so the sum over all accounts is always zero and

    cash + margin + unrealised  =  capital + realised - fees + funding + unrealised  =  equity

holds at every second to the last 1e-8 USD; `Ledger.check` states it. Unrealised profit is a valuation, never booked.

Money is `usd_e8`. The notional of a fill is rounded once, half away from zero; it is exact wherever tick × lot is a whole
multiple of 1e-8 USD, which every instrument we know fulfils. A partial close takes its share of the average cost, rounded
once; the remainder stays in the position, so all sums are exact. A position that flips is closed and opened anew.

Spot is held at cost in `MARGIN` (bought, not borrowed; never below zero). A linear perpetual reserves `margin_ppm` of its
cost there. Inverse and quanto contracts are refused: their profit is in another coin than the account's. This module
knows no order, no market hours and no limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from squeezecore.errors import UsageError
from squeezecore.market import FUNDING_SCALE, PPM, Instrument, Kind, Margin
from squeezecore.trading import USD_E8, Fill, Position

CAPITAL, CASH, MARGIN, FEES, FUNDING, REALISED = "capital", "cash", "margin", "fees", "funding", "realised"
ACCOUNTS = (CAPITAL, CASH, MARGIN, FEES, FUNDING, REALISED)
INT64_MAX = 2**63 - 1
MARGIN_PPM = 50_000  # the account is set to twenty times; the risk limits keep it far below


class Posting(NamedTuple):
    """One line of a transaction; the amounts of a transaction add up to zero."""

    account: str
    amount_usd_e8: int


Transaction = tuple[Posting, ...]


class Totals(NamedTuple):
    """What the account has earned and paid since it began, each in usd_e8."""

    realised_usd_e8: int  # price profit of closed positions, before fees and funding
    fees_usd_e8: int  # paid
    funding_usd_e8: int  # received; negative: paid
    slippage_usd_e8: int  # paid; a memo, already inside the prices


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """All that the past tells the future."""

    balances: dict[str, int]
    positions: dict[str, Position]
    margins: dict[str, int]
    marks: dict[str, int]
    slippage_usd_e8: int = 0


_POWERS = tuple(10**n for n in range(40))


def divide_half_away(numerator: int, denominator: int) -> int:
    """Divide integers, `denominator` > 0, and round half away from zero.

    >>> divide_half_away(5, 10), divide_half_away(-5, 10), divide_half_away(-4, 10)
    (1, -1, 0)
    """
    half = (2 * abs(numerator) + denominator) // (2 * denominator)
    return half if numerator >= 0 else -half


def notional_usd_e8(instrument: Instrument, price: int, qty: int) -> int:
    """Return price × qty (signed as `qty`) in usd_e8, rounded once, half away from zero."""
    decimals = instrument.price_decimals + instrument.qty_decimals - 8
    if decimals <= 0:
        return price * qty * int(10**-decimals)
    value, unit = price * qty, _POWERS[decimals]
    return value // unit if value % unit == 0 else divide_half_away(value, unit)


def refuse_unsupported(instrument: Instrument) -> None:
    """Raise `UsageError` for what this ledger cannot hold: anything but spot and linear contracts settled in USD."""
    linear = instrument.kind in (Kind.PERP, Kind.FUTURE) and instrument.margin is Margin.LINEAR
    if instrument.kind is not Kind.SPOT and not linear:
        raise UsageError(
            f"traded instrument was {instrument.id} ({instrument.kind}, {instrument.margin} margin), "
            "the simulated account holds spot and linear perpetuals only: trade the linear one, watch this one"
        )


class Ledger:
    """One account's books. Mutable, deterministic; a snapshot and its restoration are invisible.

    `capital_usd_e8` is deposited at the start. `margin_ppm` of a perpetual's cost moves from cash to margin (1e6 / leverage).
    """

    def __init__(self, capital_usd_e8: int, margin_ppm: int = MARGIN_PPM) -> None:
        self._instruments: dict[str, Instrument] = {}
        self._margin_ppm = margin_ppm
        self._state = _State(dict.fromkeys(ACCOUNTS, 0), {}, {}, {})
        self._post((CASH, capital_usd_e8), (CAPITAL, -capital_usd_e8))

    # --- what is there ---

    @property
    def positions(self) -> Mapping[str, Position]:
        """Return open positions by instrument id; a closed one is not in it."""
        return self._state.positions

    @property
    def marks(self) -> Mapping[str, int]:
        """Return the last mark of each instrument that was marked or filled."""
        return self._state.marks

    @property
    def cash_usd_e8(self) -> int:
        """Return what is neither reserved nor spent."""
        return self._state.balances[CASH]

    @property
    def margin_usd_e8(self) -> int:
        """Return what positions have reserved, spot holdings at cost included."""
        return self._state.balances[MARGIN]

    @property
    def margin_ppm(self) -> int:
        """Return the share of a perpetual's cost that is reserved."""
        return self._margin_ppm

    @property
    def unrealised_usd_e8(self) -> int:
        """Return mark × qty − cost over all positions, at the last marks."""
        return sum(self.unrealised_of(name) for name in self._state.positions)

    @property
    def equity_usd_e8(self) -> int:
        """Return cash + margin + unrealised at the last marks."""
        state = self._state
        equity = state.balances[CASH] + state.balances[MARGIN]
        for name, position in state.positions.items():
            value = notional_usd_e8(self._instruments[name], state.marks[name], position.qty)
            equity += value - position.cost_usd_e8
        return equity

    @property
    def balances(self) -> Mapping[str, int]:
        """Return every account's balance; they add up to zero."""
        return self._state.balances

    @property
    def margins(self) -> Mapping[str, int]:
        """Return what each open position reserves, by instrument id, usd_e8."""
        return self._state.margins

    @property
    def totals(self) -> Totals:
        """Return what was earned and paid since the start."""
        balances = self._state.balances
        return Totals(-balances[REALISED], balances[FEES], -balances[FUNDING], self._state.slippage_usd_e8)

    def qty_of(self, instrument_id: str) -> int:
        """Return the signed position, 0 when there is none."""
        position = self._state.positions.get(instrument_id)
        return position.qty if position else 0

    def value_of(self, instrument_id: str) -> int:
        """Return the signed notional of a position at its last mark, usd_e8."""
        position = self._state.positions.get(instrument_id)
        if position is None:
            return 0
        return notional_usd_e8(self._instruments[instrument_id], self._state.marks[instrument_id], position.qty)

    def unrealised_of(self, instrument_id: str) -> int:
        """Return one position's unrealised profit at its last mark, usd_e8."""
        position = self._state.positions.get(instrument_id)
        return self.value_of(instrument_id) - position.cost_usd_e8 if position else 0

    def margin_for(self, instrument: Instrument, cost: int) -> int:
        """Return what a position of this cost reserves: all of it for spot, `margin_ppm` for a perpetual."""
        if instrument.kind is Kind.SPOT:
            return cost
        return divide_half_away(abs(cost) * self._margin_ppm, PPM)

    # --- what happens ---

    def apply(self, fill: Fill, instrument: Instrument) -> Transaction:
        """Book one fill and return its postings.

        Raises `UsageError` for an instrument this ledger cannot hold, and for spot sold short.
        """
        self._know(instrument)
        state = self._state
        name = instrument.id
        held = state.positions.get(name)
        qty, cost = (held.qty, held.cost_usd_e8) if held else (0, 0)
        change = fill.side.sign * fill.qty
        if instrument.kind is Kind.SPOT and qty + change < 0:
            raise UsageError(f"spot sale was {fill.qty} of {name}, held are {qty}: spot cannot be sold short")
        new_qty, new_cost, realised = _trade(qty, cost, change, notional_usd_e8(instrument, fill.price, change))
        opened = held.opened_ts if held and qty * new_qty > 0 else fill.ts
        if new_qty:
            state.positions[name] = Position(
                asset=fill.asset, instrument=name, qty=new_qty, cost_usd_e8=new_cost, opened_ts=opened
            )
        else:
            state.positions.pop(name, None)
        state.marks.setdefault(name, fill.price)
        state.slippage_usd_e8 += fill.slippage_usd_e8
        return self._reserve(instrument, new_cost, realised, fill.fee_usd_e8)

    def apply_all(
        self, fills: Sequence[Fill], instrument: Instrument, qty: int, cost: int, realised: int
    ) -> Transaction:
        """Book fills of one order at once: what `apply` of each leads to, given as the position's new qty and cost.

        The order opens, adds or closes; it does not flip. Returns the postings of all together.
        """
        self._know(instrument)
        state, name = self._state, instrument.id
        held = state.positions.get(name)
        if qty:
            opened = held.opened_ts if held else fills[0].ts
            state.positions[name] = Position(
                asset=fills[0].asset, instrument=name, qty=qty, cost_usd_e8=cost, opened_ts=opened
            )
        else:
            state.positions.pop(name, None)
        state.marks.setdefault(name, fills[0].price)
        fees = 0
        for fill in fills:
            fees += fill.fee_usd_e8
            state.slippage_usd_e8 += fill.slippage_usd_e8
        return self._reserve(instrument, cost, realised, fees)

    def pay_funding(self, instrument_id: str, rate: int, mark: int) -> int:
        """Pay (or receive) funding on what is held now and return what was received, usd_e8; negative: paid.

        `rate` is for the event's own interval, × FUNDING_SCALE; positive: longs pay shorts. `mark` is at price scale.
        """
        qty = self.qty_of(instrument_id)
        if not qty:
            return 0
        instrument = self._instruments[instrument_id]
        decimals = instrument.price_decimals + instrument.qty_decimals - 8
        # one rounding from the exact product, not a rounding of a rounded notional
        numerator, denominator = -mark * qty * rate, FUNDING_SCALE
        if decimals >= 0:
            denominator *= int(10**decimals)
        else:
            numerator *= int(10**-decimals)
        received = divide_half_away(numerator, denominator)
        self.receive_funding(received)
        return received

    def receive_funding(self, received_usd_e8: int) -> None:
        """Book funding whose amount is known, as who folds an account's payments again; negative: paid."""
        self._post((CASH, received_usd_e8), (FUNDING, -received_usd_e8))

    def mark(self, prices: Mapping[str, int]) -> int:
        """Value positions at new marks (price scale, by instrument id) and return the equity, usd_e8."""
        self._state.marks.update((name, price) for name, price in prices.items() if name in self._instruments)
        return self.equity_usd_e8

    def equity_path(self, marks: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return the equity of each second of a span in which nothing is booked, usd_e8.

        `marks` holds a column of one length for (at least) each instrument held. Equal to calling `mark` each second.
        """
        names = sorted(self._state.positions)
        seconds = len(next(iter(marks.values()))) if marks else 0
        columns = np.empty((len(names), seconds), np.int64)
        for row, name in enumerate(names):
            columns[row] = marks[name]
        held = [self._state.positions[name] for name in names]
        base = self.cash_usd_e8 + self.margin_usd_e8
        return equity_path(
            base, columns, [p.qty for p in held], [p.cost_usd_e8 for p in held], [self._instruments[n] for n in names]
        )

    def check(self) -> int:
        """Verify the identities of the module's head and return the equity; `AssertionError` means a fault of ours."""
        state, balances = self._state, self._state.balances
        assert sum(balances.values()) == 0, f"accounts add up to {sum(balances.values())} usd_e8, must be 0"
        assert balances[MARGIN] == sum(state.margins.values()), "margin account differs from the positions' margins"
        assert set(state.margins) <= set(state.positions), "margin is reserved for a position that is closed"
        for name, position in state.positions.items():
            assert position.qty != 0, f"{name} is listed with a position of 0"
            assert state.margins.get(name, 0) == self.margin_for(self._instruments[name], position.cost_usd_e8)
        realised, fees, funding, _ = self.totals
        equity = self.equity_usd_e8
        other = -balances[CAPITAL] + realised - fees + funding + self.unrealised_usd_e8
        assert equity == other, f"equity was {equity} usd_e8 by assets, {other} by history: must be equal"
        return equity

    # --- a cut in time ---

    def to_bytes(self) -> bytes:
        """Write the whole state."""
        return msgspec.json.encode((self._margin_ppm, self._instruments, self._state), order="sorted")

    @classmethod
    def from_bytes(cls, data: bytes) -> Ledger:
        """Restore what `to_bytes` wrote."""
        ledger = cls.__new__(cls)
        kept = msgspec.json.decode(data, type=tuple[int, dict[str, Instrument], _State])
        ledger._margin_ppm, ledger._instruments, ledger._state = kept  # noqa: SLF001  # its own class
        return ledger

    # --- leaves ---

    def _know(self, instrument: Instrument) -> None:
        if instrument.id not in self._instruments:
            refuse_unsupported(instrument)
            self._instruments[instrument.id] = instrument

    def _reserve(self, instrument: Instrument, cost: int, realised: int, fee: int) -> Transaction:
        """Book a profit and a fee, and reserve what a position of this cost needs."""
        margins = self._state.margins
        reserved = margins.pop(instrument.id, 0)
        needed = self.margin_for(instrument, cost)
        if needed:
            margins[instrument.id] = needed
        return self._post(
            (REALISED, -realised), (FEES, fee), (MARGIN, needed - reserved), (CASH, realised - fee - needed + reserved)
        )

    def _post(self, *lines: tuple[str, int]) -> Transaction:
        postings = tuple(Posting(account, amount) for account, amount in lines if amount)
        assert sum(posting.amount_usd_e8 for posting in postings) == 0, f"postings {postings} do not add up to 0"
        for account, amount in postings:
            self._state.balances[account] += amount
        return postings


def _trade(qty: int, cost: int, change: int, notional: int) -> tuple[int, int, int]:
    """Apply a signed change to (qty, cost); return the new qty and cost and the realised profit.

    `notional` carries the sign of `change`. Average cost: closing a part takes that part of the cost, rounded once.
    """
    if qty * change >= 0:
        return qty + change, cost + notional, 0
    closed = min(abs(qty), abs(change))
    closing = divide_half_away(notional * closed, abs(change))  # the part of the fill that closes; the rest opens
    share = divide_half_away(cost * closed, abs(qty))  # all of it when the whole position closes
    realised = -closing - share
    return qty + change, cost - share + notional - closing, realised


# --- every second of a span, in one pass ---


def equity_path(
    base_usd_e8: int,
    marks: NDArray[np.int64],
    qtys: list[int],
    costs_usd_e8: list[int],
    instruments: list[Instrument],
) -> NDArray[np.int64]:
    """Return base + Σ (mark × qty − cost) for each second, exactly, usd_e8.

    `marks` is [positions, seconds] at price scale; `base_usd_e8` is cash + margin. No sum may reach 2**63, that is 92
    billion USD; the bound is checked beforehand with exact integers and named in the `UsageError`.
    """
    if marks.shape[0] != len(qtys):
        raise ValueError(f"marks had {marks.shape[0]} rows, positions are {len(qtys)}: give one row a position")
    equity = np.full(marks.shape[1], base_usd_e8, np.int64)
    if marks.size == 0:
        return equity
    bound = abs(base_usd_e8)
    for row, (qty, cost, instrument) in enumerate(zip(qtys, costs_usd_e8, instruments, strict=True)):
        decimals = instrument.price_decimals + instrument.qty_decimals - 8
        up, down = int(10 ** max(0, -decimals)), int(10 ** max(0, decimals))
        top = int(marks[row].max())
        bound += abs(notional_usd_e8(instrument, top, qty)) + abs(cost) + 1
        if max(bound, abs(qty) * up, (2 * top + 1) * down) > INT64_MAX:
            raise UsageError(
                f"equity could reach {bound / USD_E8:.2f} USD with {qty} of {instrument.id}, "
                f"the limit is {INT64_MAX / USD_E8:.0f} USD: trade less capital"
            )
        _add_position(equity, marks[row], qty * up, cost, down)
    return equity


@njit(cache=True)  # type: ignore[misc, unused-ignore]
def _add_position(equity: Any, marks: Any, qty: int, cost: int, divisor: int) -> None:
    """Add round(mark × qty / divisor) − cost to each second, half away from zero, without a product above the result.

    With |qty| = whole · divisor + rest the quotient is mark · whole + round(mark · rest / divisor); marks are positive.
    """
    sign = 1 if qty >= 0 else -1
    size = abs(qty)
    whole = size // divisor
    rest = size - whole * divisor
    if rest == 0:  # the usual case needs no division
        whole *= sign
        for i in range(len(marks)):
            equity[i] += marks[i] * whole - cost
        return
    for i in range(len(marks)):
        value = marks[i] * whole + (2 * marks[i] * rest + divisor) // (2 * divisor)
        equity[i] += sign * value - cost


class Drawdown(NamedTuple):
    """The deepest fall seen so far, kept over spans."""

    peak_usd_e8: int  # highest equity so far
    depth_usd_e8: int  # largest fall from a peak, ≥ 0
    depth: float  # largest fall as a share of its peak


def deepen(drawdown: Drawdown, equity: NDArray[np.int64]) -> Drawdown:
    """Carry a drawdown over a span's equity (usd_e8, one value a second); a cut changes nothing."""
    return Drawdown(*_deepen(drawdown.peak_usd_e8, drawdown.depth_usd_e8, drawdown.depth, equity))


@njit(cache=True)  # type: ignore[misc, unused-ignore]
def _deepen(peak: int, depth_usd: int, depth: float, equity: Any) -> tuple[int, int, float]:
    for value in equity:
        if value > peak:  # noqa: PLR1730  # max() of an int64 and a Python int would widen
            peak = value
        fall = peak - value
        if fall > depth_usd:  # noqa: PLR1730
            depth_usd = fall
        if peak > 0:
            share = fall / peak
            if share > depth:  # noqa: PLR1730
                depth = share
    return peak, depth_usd, depth
