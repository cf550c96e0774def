"""A second hit by late prints twice: nothing of the first repair is lost by the second, whenever the recorder comes."""

import numpy as np
import pytest

from squeeze_cvd.refilling import refill
from squeezecore import flow
from squeezecore.market import Bars, Trades
from support import flow_worlds as worlds


def made_of(params: flow.BarParams, prints: Trades, second: int, repairs: int) -> Bars:
    state = flow.bars_initial(second)._replace(closed_s=second, close=int(prints.price[0]))
    _, bars, _ = flow.scan_bars(params._replace(contiguous=False), state, prints, second + 1)
    bars.version[:] = (np.uint64(1) << np.uint64(32)) + np.uint64(repairs)
    return bars


@pytest.mark.parametrize("recorded", ["nothing late", "the first late ones", "all but one", "all"])
def test_a_second_repair_waits_for_the_prints_of_the_first(recorded: str) -> None:
    world = worlds.world(("BTC",), seconds=6)
    name, instrument = next((name, one) for name, one in world.instruments.items() if one.section == "linear")
    params, block = worlds.bar_params(instrument), world.trades[name]
    seconds = block.exchange_ns // worlds.NS
    second = int(np.unique(seconds)[np.argmax(np.unique(seconds, return_counts=True)[1])])
    whole = worlds.pick(block, seconds == second)
    count = len(whole.id)
    assert count > 8
    part = np.array([0, 1, 2, 2])[np.arange(count) % 4]  # in time, late once, late again; the last are more
    last = np.flatnonzero(part == 2)[-1]
    held = {
        "nothing late": part == 0,
        "the first late ones": part < 2,
        "all but one": np.arange(count) != last,
        "all": part < 3,
    }[recorded]
    bars = made_of(params, worlds.pick(whole, part < 2), second, 1)
    before = worlds.pick(bars, np.arange(1))
    done = refill(params, bars, worlds.pick(whole, part == 2), worlds.pick(whole, held), forced=False)
    truth = made_of(params, whole, second, 1)
    if recorded == "nothing late":  # what is stored holds prints that are not here
        assert not done
        assert all((a == b).all() for a, b in zip(bars, before, strict=True))
    else:
        assert done
        assert all(getattr(bars, each)[0] == getattr(truth, each)[0] for each in ("buy_volume", "sell_volume", "close"))
