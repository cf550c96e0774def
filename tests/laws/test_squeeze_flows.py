"""What is shown of the flows at each second is what an explanation of that second says."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.squeeze_worlds import START_S, WARMUP_S, rows
from squeezecore import squeeze
from squeezecore.market import cut
from squeezecore.squeeze import SqueezeParams, explain_second, flow_z, initial, scan

P = SqueezeParams()
LENGTH = WARMUP_S + 6 * 3600


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(1, 5), at=st.integers(5 * 3600, LENGTH - 1), split=st.floats(0, 1))
def test_flows_in_swings_are_those_of_an_explanation(seed: int, at: int, split: float) -> None:
    block = rows(seed, LENGTH)
    told = explain_second(P, block, START_S + at)["windows"]
    state = initial(P)
    border = round(split * at)
    for start, end in ((0, border), (border, at + 1)):
        state, _ = scan(P, state, cut(block, start, end))
    shown = flow_z(state)
    for name, found in zip(("z_spot", "z_perp"), shown, strict=True):
        wanted = [told[window][name] for window in squeeze.WINDOWS]
        if state.whole[squeeze.I_READY]:
            assert found.tolist() == wanted
        else:
            assert np.isnan(found).all()
            assert set(wanted) == {0.0}


def test_flows_are_unknown_before_swings_exist() -> None:
    state, _ = scan(P, initial(P), cut(rows(1, LENGTH), 0, 3600))
    assert all(np.isnan(part).all() for part in flow_z(state))
