"""Strategy and executor end at any effect of theirs and go on: no order is lost or doubled, nothing differs from the backtest.

`python tests/services/test_trading_crashes.py SEED [LAST]` replays one schedule, or all up to LAST, and says how it went.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from squeezecore import desk
from support import virtual
from support.backtest_worlds import INSTRUMENTS, world
from support.trading_stage import Stage
from support.trading_worlds import after, batches_of, facts_of, pretend

SCHEDULES, CHUNK = 240, 20


def live(seed: int, ends: int, *, seconds: int = 200, assets: tuple[str, ...] = ("BTC",), **changes: object) -> str:
    """Trade a drawn world, each service ended so many times; say what was wrong."""
    drawn = world(seed, assets=assets, days=2, seconds=seconds, holes=1, **changes)
    instruments = {asset: INSTRUMENTS[asset] for asset in assets}
    stage, batches = Stage(drawn.spec, instruments), [*batches_of(drawn.rows), after(drawn)]

    async def main() -> list[str]:
        await stage.configure()
        await stage.publish(batches, facts_of(instruments, drawn.funding))
        await stage.live(np.random.default_rng(seed) if ends else None, ends, batches[-1].ts)
        return await stage.sendings()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk.squeeze, "scan", pretend(drawn))
        sent = virtual.run(main())
    _, days = drawn.run(days=2)
    wrong = stage.differs(days, batches[-1].ts - 1)
    if len(set(sent)) != len(sent):
        wrong += f"; an order was written down twice: {sorted(sent)}"
    if set(sent) != set(stage.venue_orders):
        wrong += f"; written down were {len(sent)}, the venue has {len(stage.venue_orders)}"
    payments = [payment.received_usd_e8 for payment in stage.memory.of("payments")]
    trades = sum(trade.funding_usd_e8 for day in days for trade in day.trades)
    if seconds > 900 and sum(payments) != trades:
        wrong += f"; funding was {sum(payments)}, the backtest's {trades}"
    return wrong


@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
def test_ends_at_any_effect_change_nothing(first: int):
    found = {seed: wrong for seed in range(first, first + CHUNK) if (wrong := live(seed, 3))}
    assert found == {}, f"python {__file__} SEED replays one"


@pytest.mark.parametrize("seed", [1, 2])
def test_two_assets_funding_and_many_ends(seed: int):
    assert live(seed, 8, seconds=1_000, assets=("BTC", "ETH"), capital_usd=1_000_000) == ""


def test_without_an_end_nothing_differs_either():
    assert live(3, 0, seconds=1_000, assets=("BTC", "ETH")) == ""


if __name__ == "__main__":
    for number in range(int(sys.argv[1]), int(sys.argv[-1]) + 1):
        sys.stdout.write(f"{number}: {live(number, 3) or 'nothing was wrong'}\n")
