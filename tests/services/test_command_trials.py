"""The command counts what is tried, shows it, and says when somebody took something back."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from support.command import Market, simulated

BACKTEST = ("backtest", "BTC", "--from", "2026-01-03", "--to", "2026-01-04", "--jobs", "1")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with simulated(tmp_path_factory.mktemp("trials"), "BTC", 4) as made:
        yield made


def test_a_run_is_one_trial_whose_hash_stands_in_its_receipt(market: Market) -> None:
    first = market.ask(*BACKTEST)
    again, fresh = market.ask(*BACKTEST), market.ask(*BACKTEST, "--fresh")
    assert len(first["trial"]) == 32
    assert first["trial"] == again["trial"] == fresh["trial"]
    told = market.ask("trials", "--verify")
    assert told["verified"]
    assert told["faults"] == []
    (line,) = [line for line in told["trials"] if line["run_id"] == first["run_id"]]
    assert line["hash"] == first["trial"]
    assert line["total_return"] == first["summary"]["total_return"]
    assert first["trial"][:16] in market.do("trials")


def test_a_trial_that_was_taken_out_ends_verification_with_an_error(market: Market) -> None:
    name = market.ask(*BACKTEST, "--capital", "50000")["trial"]
    (link,) = [link for link in market.store.trials() if link.hash == name]
    market.store.delete("trials", "hash = {hash:String}", {"hash": name})
    try:
        said = market.say("trials", "--verify")
        assert said.code == 1
        assert f"its receipt names trial {name[:12]}" in said.out
        assert "there must be none" in said.err
        assert market.say("trials").code == 0  # nobody asked
    finally:
        market.store.insert_trial(link)
    assert market.say("trials", "--verify").code == 0


def test_a_run_of_a_version_that_counted_nothing_is_shown_all_the_same(market: Market) -> None:
    made = market.ask(*BACKTEST, "--capital", "60000")
    run = market.store.run(made["run_id"])
    assert run is not None
    summary = {name: value for name, value in run.summary.items() if name != "trial"}
    market.store.put_run(msgspec.structs.replace(run, summary=summary))
    again = market.ask(*BACKTEST, "--capital", "60000")
    assert (again["cached"], again["trial"]) == (True, "")
    assert market.ask("trials", "--verify")["runs_without"] == 1
    market.store.put_run(run)
