"""What an account holds, for the board: its fills folded by the ledger, valued at the assets' marks."""

from __future__ import annotations

from collections.abc import Mapping

from squeeze_reporting.board import Held
from squeezecore.errors import UsageError
from squeezecore.ledger import Ledger
from squeezecore.market import Instrument
from squeezecore.trading import USD_E8, Fill


class Books:
    """Fills in, what is held out; a fill that comes twice counts once."""

    def __init__(self, capital_usd: int) -> None:
        self._ledger = Ledger(capital_usd * USD_E8)
        self._known: set[str] = set()
        self.refused = ""  # why a fill could not be booked: then nothing is shown

    def apply(self, fill: Fill, instrument: Instrument) -> None:
        """Book a fill."""
        if fill.id in self._known:
            return
        self._known.add(fill.id)
        try:
            self._ledger.apply(fill, instrument)
        except UsageError as error:
            self.refused = str(error)

    def held(self, marks: Mapping[str, int]) -> dict[str, Held] | None:
        """Return what is held of each asset at the marks of instruments; None where it is not known."""
        if self.refused:
            return None
        ledger = self._ledger
        ledger.mark({name: mark for name, mark in marks.items() if name in ledger.positions and mark > 0})
        found: dict[str, Held] = {}
        for name, position in ledger.positions.items():
            before = found.get(position.asset, Held(0.0, 0.0))
            found[position.asset] = Held(
                before.position_usd + ledger.value_of(name) / USD_E8,
                before.pnl_usd + ledger.unrealised_of(name) / USD_E8,
            )
        return found
