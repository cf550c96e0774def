"""Everything runs as processes, and one after the other is killed: the tables hold the truth, and the day can be proved.

The market is the simulated exchanges', at some times its speed; who is killed when follows from the seed.
"""

import asyncio
import datetime as dt
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.test_up_all import ASSETS, up
from squeezecore.adapters import bus as buses
from squeezecore.adapters import embedded, embedded_nats, flowstore, parity, tradestore
from squeezecore.adapters.loopback import source_of
from squeezecore.adapters.loopback_source import Query
from squeezecore.adapters.parity import Certificate, ParityRequest
from squeezecore.adapters.store import Store
from squeezecore.market import DAY_S
from squeezecore.spec import canonical
from squeezecore.trading import OrderState
from squeezecore.venues import venue
from squeezecore.wire import Sending
from squeezeflow.up import SERVICES
from support.command import Market, eventually

SPEED = 4
KILLS = 6
EVERYBODY = (*SERVICES[:5], *SERVICES[:5], "venue", "nats", "clickhouse")
# Everybody wants in at once, and out at the first step against it.
PARAMS = {
    "entry_score": 0.0, "cost_multiple": 0.0, "cooldown_s": 5, "context_enter": 0.01, "divergence_min": 0.1,
    "divergence_armed_s": 21_600, "fixed_stop": 1e-6,
}  # fmt: skip


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    home = tmp_path / "home"
    (tmp_path / "assets.toml").write_text(ASSETS)
    yield Market(home, None)  # type: ignore[arg-type] - the command alone opens its store
    embedded_nats.stop(home)
    embedded.stop(home)


def on_bus(home: Path, action: Callable[[Any], Any]) -> Any:
    """Do something on the home's bus, which is started if it does not run."""

    async def main() -> Any:
        server = embedded_nats.open_nats(home)
        bus = await buses.connect(server.url, name="test")
        try:
            return await action(bus)
        finally:
            await bus.close()

    return asyncio.run(main())


async def ask(url: str) -> None:
    """Ask for the parameters."""
    bus = await buses.connect(url, name="test")
    await bus.put("config", "params", canonical(PARAMS))
    await bus.close()


async def sendings(bus: Any) -> list[str]:
    """Return the orders that were written down before they went out."""
    info = await bus.stream("TRADE")
    reader = await bus.read("TRADE", ("trade.v1.sending.>",), "judge", 0)
    left, found = await reader.lag(), []
    while len(found) < left and info.messages:
        found += [each.message.order.id for each in await reader.pull(500, 1.0) if isinstance(each.message, Sending)]
    return found


def seen(lines: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return what was last said of somebody."""
    return next((line for line in reversed(list(lines)) if line.get("service") == name and "pid" in line), {})


def kill_one(lines: list[dict[str, Any]], name: str) -> None:
    """Kill somebody, and wait until the next one of the name answers."""
    pid = int(seen(lines, name)["pid"])
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: seen(lines, name)["pid"] not in (0, pid) and seen(lines, name)["ready"]), seen(
        lines, name
    )


def decided(store: Store) -> int:
    """Return the last second that live has rows of."""
    return max((line.last_ts for line in store.asset_coverage("BTC")), default=0)


def assert_prints(store: Store, first_s: int, last_s: int) -> None:
    """Assert that every print was recorded once, as the venue means it."""
    source = source_of("sim:7", ("BTC",))
    for (section, native), made in source.markets.items():
        instrument = store.instruments()[made.instrument.id]
        found = flowstore.read_trades(store, instrument.id, first_s, last_s)
        order = np.argsort(found.id)
        ids = found.id[order]
        assert len(ids) > 5, instrument.id
        np.testing.assert_array_equal(np.diff(ids), 1, instrument.id)
        query = Query(until_ns=(last_s + 60) * 10**9, limit=len(ids), from_id=int(ids[0]))
        frames = source.truth(section, native, True, query)
        truth = (
            venue("binance").parse_many(section, {native: instrument}, frames, [0] * len(frames)).trades[instrument.id]
        )
        for column in ("id", "exchange_ns", "price", "qty", "side"):
            np.testing.assert_array_equal(getattr(found, column)[order], getattr(truth, column), column)


def certificates(store: Store, first_s: int, last_s: int) -> list[Certificate]:
    """Prove each day that was lived in."""
    days = range(first_s // DAY_S, last_s // DAY_S + 1)
    return [parity.parity(store, ParityRequest(day=dt.date(1970, 1, 1) + dt.timedelta(day))) for day in days]


def live(market: Market, folder: Path, seed: int, kills: int) -> None:
    rng = np.random.default_rng(seed)
    with up(market, "--assets", folder / "assets.toml", "--speed", SPEED) as lines:
        asyncio.run(ask(str(seen(lines, "nats")["address"])))
        with embedded.open_store(market.home) as store:
            begun = decided(store)
            for _ in range(kills):
                mark, pause = decided(store), int(rng.integers(2, 25))
                assert eventually(lambda mark=mark, pause=pause: decided(store) >= mark + pause)  # type: ignore[misc]
                kill_one(lines, str(rng.choice(EVERYBODY)))
            calm = decided(store)
            # Long enough for the holes to be closed, and for both snapshots of a whole minute.
            assert eventually(lambda: decided(store) >= max(calm + 75, begun + 150))
    with embedded.open_store(market.home) as store:
        last = decided(store)
        assert_prints(store, begun + 5, last - 30)
        orders = tradestore.orders(store, "paper")
        accepted = {one.order_id for one in tradestore.updates(store, "paper") if one.state is OrderState.ACCEPTED}
        found = certificates(store, begun, last)
    sent = on_bus(market.home, sendings)
    assert len(sent) == len(set(sent))
    assert accepted <= set(sent)
    assert {order.id for order in orders} >= accepted
    assert len(accepted) > 0
    for certificate in found:
        assert certificate.different == 0, [(each.what, each.difference) for each in certificate.proofs]
    assert sum(each.count for one in found for each in one.proofs if each.what == "fills") > 0, found
    assert all(each.equal for each in found[-1].proofs), found[-1]


@pytest.mark.parametrize("seed", [1])
def test_killed_one_after_the_other_they_lose_nothing(market: Market, tmp_path: Path, seed: int) -> None:
    live(market, tmp_path, seed, KILLS)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 22))
def test_killed_for_longer_they_lose_nothing(market: Market, tmp_path: Path, seed: int) -> None:
    live(market, tmp_path, seed, 5 * KILLS)
