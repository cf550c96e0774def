"""The open-interest service as a process: real NATS, real ClickHouse, the simulated exchange's REST on loopback."""

import asyncio
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from squeezecore.adapters import bus, catalogue, embedded, embedded_nats
from squeezecore.market import FundingSeries, OpenInterestSeries
from squeezecore.spec import AssetConfig, MarketConfig, canonical
from squeezecore.venues import binance
from squeezecore.wire import FundingFact, InterestFact, MarkFact
from support.services import Service, started

PERP = binance.instrument("linear", "BTCUSDT")
COIN = binance.instrument("inverse", "BTCUSD_PERP")
SPOT = binance.instrument("spot", "BTCUSDT")
FACTS = "squeezeflow_openinterest_facts_total"
ASSETS = {
    "BTC": AssetConfig(traded=PERP.id, markets=tuple(MarketConfig(instrument=one.id) for one in (SPOT, PERP, COIN)))
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a home with a running NATS and ClickHouse that knows what is watched."""
    path = tmp_path_factory.mktemp("home")
    with embedded_nats.open_nats(path, grace_s=5.0), embedded.open_store(path, grace_s=5.0):
        asyncio.run(_tell(path))
        yield path
    embedded_nats.stop(path)
    embedded.stop(path)


def bus_of(home: Path) -> str:
    server = embedded_nats.status(home)
    assert server is not None
    return server.url


async def _tell(home: Path) -> None:
    connection = await bus.connect(bus_of(home), name="test")
    for instrument in (SPOT, PERP, COIN):
        await catalogue.declare(connection, instrument)
    await connection.put("config", "assets", canonical(ASSETS))
    await connection.close()


def end_of(home: Path) -> int:
    """Return where the stream ends; other tests' facts lie before it."""

    async def read() -> int:
        connection = await bus.connect(bus_of(home), name="test")
        found = await connection.stream("MD")
        await connection.close()
        return found.last_seq

    return asyncio.run(read())


def facts(home: Path, after_seq: int, *kinds: type[Any]) -> list[Any]:
    """Return the facts of some kinds that the bus holds after a place, in order."""

    async def read() -> list[Any]:
        connection = await bus.connect(bus_of(home), name="test")
        reader = await connection.read("MD", ("md.v1.>",), "test-facts", after_seq)
        found = []
        while pulled := await reader.pull(500, 0.2):
            found += [each.message for each in pulled if isinstance(each.message, kinds)]
        await reader.close()
        await connection.close()
        return found

    return asyncio.run(read())


@contextmanager
def exchange(endpoints: Path) -> Iterator[str]:
    """Run a simulated exchange; yield where the REST of its linear section is."""
    endpoints.unlink(missing_ok=True)
    words = ["-m", "squeezecore.adapters.loopback", "--source", "sim:7", "--assets", "BTC", "--endpoints"]
    process = subprocess.Popen([sys.executable, *words, str(endpoints)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline()  # it listens
        yield json.loads(endpoints.read_text())["binance"]["linear"]["rest"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def database(home: Path) -> Iterator[str]:
    """Give the name of a database of this test alone."""
    name = f"t_{secrets.token_hex(6)}"
    yield name
    with embedded.open_store(home, database=name) as store:
        store.drop_database()


def poller(home: Path, run: Path, database: str, **settings: object) -> Any:
    given = {
        "poll_s": 0.2,
        "limit_share": 1000,
        "home": home,
        "database": database,
        "nats_url": bus_of(home),
        "endpoints": run / "where.json",
        "requests_per_s": 100_000,
        "requests_burst": 1_000_000,
    }
    return started(run, ["-m", "squeeze_openinterest"], "openinterest", **given | settings)


def sample(service: Service, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(service.get("/metrics").text):
        for one in family.samples:
            if one.name == name and labels.items() <= one.labels.items():
                return one.value
    raise AssertionError(f"no {name} {labels}")


def test_what_the_exchange_says_is_published_summed_and_told(home: Path, tmp_path: Path, database: str) -> None:
    place = end_of(home)
    with exchange(tmp_path / "where.json") as rest, poller(home, tmp_path, database) as service:
        service.ready()
        service.until(
            lambda: (
                sample(service, "squeezeflow_openinterest_requests_total", section="inverse", outcome="answered") > 9
            )
        )
        for section in ("linear", "inverse"):
            for kind in ("interest", "settled"):
                service.until(lambda: sample(service, FACTS, section=section, kind=kind) > 0)  # noqa: B023
        now_s = int(time.time())  # noqa: TID251
        asked = httpx.get(f"{rest}/fapi/v1/openInterest?symbol=BTCUSDT", trust_env=False).json()
        interest = [fact for fact in facts(home, place, InterestFact) if fact.event_ts * 1000 == asked["time"]]
        assert {fact.instrument for fact in interest} >= {PERP.id}
        for fact in interest:
            if fact.instrument == PERP.id:
                assert fact.open_interest == round(float(asked["openInterest"]) * 10**PERP.qty_decimals)
            assert now_s - 200 < fact.known_at <= now_s + 1
            assert fact.interval_s >= 1
        assert {fact.instrument for fact in facts(home, place, MarkFact)} == {PERP.id, COIN.id}
        funding = facts(home, place, FundingFact)
        assert {fact.settled for fact in funding} == {True, False}
        paid = [(fact.instrument, fact.event_ts) for fact in funding if fact.settled]
        assert len(paid) == len(set(paid)) >= 18

        told = service.get("/v1/open-interest/BTC").json()
        assert (told["unit"], told["all"]["venues"], told["all"]["missing"]) == ("base", ["binance"], [])
        values = {one["instrument"]: one["open_interest"] for one in told["markets"]}
        assert told["all"]["open_interest"] == pytest.approx(sum(values.values()))
        assert (
            told["top"]["open_interest"] == told["venues"]["binance"]["open_interest"] == told["all"]["open_interest"]
        )
        assert set(told["all"]["changes"]) == {"5m", "15m", "1h", "4h"}
        assert told["markets"][0]["open_interest_quote"] == pytest.approx(values[PERP.id] * told["markets"][0]["mark"])
        rates = service.get("/v1/funding/BTC").json()
        assert rates["markets"][0]["settled"]["interval_s"] == 8 * 3600
        assert min(one["predicted"]["rate_8h"] for one in rates["markets"]) <= rates["mean_rate_8h"]["predicted"]
        assert service.get("/v1/open-interest").json() == ["BTC"]
        refused = service.get("/v1/open-interest/BTD")
        assert (refused.status_code, refused.json()["detail"]) == (404, "asset was 'BTD', watched are: BTC")
        assert sample(service, "squeezeflow_openinterest_requests_total", section="linear", outcome="limited") == 0
        assert sample(service, "squeezeflow_openinterest_coverage", asset="BTC") == 1
        assert service.end() == 0


def test_an_exchange_that_goes_away_is_waited_for_and_found_at_its_new_port(
    home: Path, tmp_path: Path, database: str
) -> None:
    with poller(home, tmp_path, database) as service:
        service.listening()
        service.until(lambda: "is the venue started?" in service.missing().get("sections", ""))
        with exchange(tmp_path / "where.json"):
            service.until(lambda: service.get("/readyz").status_code == 200)
            service.until(lambda: service.get("/v1/status").json()["messages"] > 10)
        service.until(lambda: service.get("/v1/status").json()["state"] == "FAILING")
        assert "next try in" in service.missing()["sections"]
        before = service.get("/v1/status").json()["messages"]
        with exchange(tmp_path / "where.json"):
            service.until(lambda: service.get("/v1/status").json()["messages"] > before + 10)
            assert service.get("/v1/status").json()["state"] == "RUNNING"


def test_a_restart_knows_what_the_store_has(home: Path, tmp_path: Path, database: str) -> None:
    with exchange(tmp_path / "where.json"), embedded.open_store(home, database=database) as store:
        now_s = int(time.time())  # noqa: TID251
        known_at = np.arange(now_s - 3700, now_s, 10)
        store.insert_open_interest(
            PERP.id,
            OpenInterestSeries(known_at - 3, known_at, np.full(len(known_at), 10**8), np.full(len(known_at), 10)),
        )
        due = np.arange(now_s // 28_800 - 9, now_s // 28_800 + 1) * 28_800
        store.insert_funding(PERP.id, FundingSeries(due, due + 7, np.full(10, 1), np.full(10, 28_800)))
        place = end_of(home)
        with poller(home, tmp_path, database) as service:
            service.ready()

            def polled() -> bool:
                return service.get("/v1/open-interest/BTC").json()["all"]["missing"] == []

            service.until(polled)
            told = service.get("/v1/open-interest/BTC").json()
            (now,) = [one["open_interest"] for one in told["markets"] if one["instrument"] == PERP.id]
            assert told["all"]["changes"]["1h"]["change"] == pytest.approx(now - 1)
            assert told["all"]["changes"]["4h"]["change"] is None
            service.until(lambda: sample(service, FACTS, section="inverse", kind="settled") > 0)
            assert service.get("/v1/funding/BTC").json()["markets"][0]["settled"]["rate"] == 1e-10
            assert sample(service, FACTS, section="linear", kind="settled") == 0
        assert {fact.instrument for fact in facts(home, place, FundingFact) if fact.settled} == {COIN.id}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("poll_s", 0, "SQUEEZE_POLL_S was"),
        ("limit_share", "many", "SQUEEZE_LIMIT_SHARE was"),
        ("max_ages", 5, "did you mean SQUEEZE_MAX_AGE_S?"),
    ],
)
def test_a_wrong_setting_is_refused_in_a_sentence(name: str, value: object, said: str, tmp_path: Path) -> None:
    with started(tmp_path, ["-m", "squeeze_openinterest"], "openinterest", home=tmp_path, **{name: value}) as service:
        assert service.wait() == 2
        assert said in service.said()
