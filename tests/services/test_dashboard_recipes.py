"""The recipes of docs/api.md, run as they stand against a running service."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.test_reporting import TOKEN, settings_of
from squeeze_reporting import channel, dashboard, live, series
from squeezecore.adapters.settings import ServiceSettings
from squeezecore.market import DAY_S
from squeezecore.trading import USD_E8
from squeezecore.wire import Clock, Standing
from support.boards import live_market
from support.command import WAIT_S
from support.services import Service, started

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
BLOCK = re.compile(r"^### (\d+)\. (.*?)\n(?:(?!^###).)*?^```(sh|py)\n(.*?)^```", re.MULTILINE | re.DOTALL)
RECIPES = BLOCK.findall(PAGE.read_text())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Give reporting beside an executor, with a market that went on for a minute."""
    home, run = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("run")
    with live_market(home, ("BTC",), 3600) as (market, feed):
        settings = settings_of(market, run)
        (run / "executor_token").write_text("a-token-of-the-executors")
        settings["executor_token_file"] = run / "executor_token"
        with (
            started(run, ["-m", "squeeze_executor"], "executor", **settings) as executor,
            started(run, ["-m", "squeeze_reporting"], "reporting", **settings) as reporting,
        ):
            executor.listening().until(lambda: executor.get("/v1/switches").status_code == 200)
            reporting.ready()
            usd = 100_000 * USD_E8
            standing = Standing(equity_usd_e8=usd, day_open_usd_e8=usd, week_open_usd_e8=usd, peak_usd_e8=usd)
            feed.say(Clock(account="paper", settled_ts=feed.next_ts - 1, standing=standing))
            last = feed.publish(60)[-1]
            reporting.until(lambda: reporting.get("/v1/board").json()["ts"] == last)
            yield reporting


def test_there_are_ten() -> None:
    assert [int(number) for number, *_ in RECIPES] == list(range(1, 11))


@pytest.mark.parametrize(("kind", "code"), [recipe[2:] for recipe in RECIPES], ids=[recipe[1] for recipe in RECIPES])
def test_a_recipe_does_what_it_says(service: Service, kind: str, code: str) -> None:
    said = {"URL": str(service.http.base_url).rstrip("/"), "TOKEN": TOKEN, "EXECUTOR_TOKEN": "a-token-of-the-executors"}
    words = ["bash", "-euo", "pipefail", "-c", code] if kind == "sh" else [sys.executable, "-W", "error", "-c", code]
    environment = [f"{name}={value}" for name, value in said.items()]
    ran = subprocess.run(["env", *environment, *words], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
    assert "Traceback" not in ran.stderr


def test_the_figures_on_the_page_are_those_of_the_code() -> None:
    text = " ".join(PAGE.read_text().split())
    assert channel.RING_S == 20 * 60
    assert (live.BOARD_RESUME_S_MAX, live.RESUME_S_MAX) == (3600, 6 * 3600)
    assert "Twenty minutes are kept in memory" in text
    assert "an hour of the board, six hours of an asset" in text
    assert f"{channel.QUEUE_MAX} events behind" in text
    assert f"A comment every {channel.HEARTBEAT_S:g} s" in text
    assert f"Limits: {dashboard.VIEWERS_MAX} streams a service" in text
    fields = ServiceSettings.model_fields
    assert (
        f"{fields['requests_per_s'].default:g} requests a second and client ({fields['requests_burst'].default} at once)"
        in text
    )
    assert fields["body_bytes_max"].default == 1 << 20
    assert f"As long as {series.POINTS:,} points need. At most {series.POINTS_MAX:,}".lower() in text.lower()
    assert series.SCORE_SPAN_S_MAX == 3 * DAY_S
