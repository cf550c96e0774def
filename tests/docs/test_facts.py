"""Figures and names on the pages are those of the code."""

import re
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import typer

import squeezecore
import squeezeflow
from laws import mutants_exchange
from squeezecore import exchange, ledger, schedules, squeeze, venues
from squeezecore.adapters import digits, embedded, filebars, importing, repair, series, supervisor, tables
from squeezecore.adapters.assets import load_assets
from squeezecore.errors import DataHoleError, SpecError, UsageError
from squeezecore.flow import BarParams, RowParams
from squeezecore.market import WARMUP_S, YEAR_USD_MAX, Rows
from squeezecore.simulator.profiles import PROFILES
from squeezecore.simulator.regimes import _AFTER_S, _CHANCE, _IMBALANCE_S, _MOVE_S, _RESET_S, _SUCCEEDS, SLOT_S
from squeezecore.spec import BacktestSpec, Costs
from squeezecore.squeeze import SqueezeParams
from squeezeflow import commands
from squeezeflow import main as entry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))
PARAMS, COSTS = SqueezeParams(), Costs()
SPEC = BacktestSpec(assets=("BTC",), start=date(2026, 1, 1), end=date(2026, 1, 1))
CODES = [*(error.exit_code for error in (UsageError, DataHoleError, SpecError)), entry.STOPPED]
LISTED_FEES = {terms.liquidation_fee_ppm for table in schedules.TABLES.values() for terms in table}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(name: str) -> str:
    """Return a page as one line, so that a sentence may be broken anywhere."""
    return " ".join((ROOT / name).read_text().split())


def sources() -> str:
    roots = [Path(package.__path__[0]) for package in (squeezecore, squeezeflow)]
    return "\n".join(path.read_text() for root in roots for path in sorted(root.rglob("*.py")))


# --- decisions ---


@pytest.mark.parametrize("page", DECISIONS, ids=named)
def test_every_decision_has_the_same_form(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert re.match(rf"# {page.name[:4]} \S", lines[0])
    assert [line.split(":")[0] for line in lines if line.startswith("Status:")] == ["Status"]
    titles = [line.removeprefix("## ") for line in lines if line.startswith("## ") and line != "## Options"]
    assert titles == ["Context", "Decision", "Consequences"]


def test_decisions_are_numbered_without_a_hole() -> None:
    assert [page.name[:4] for page in DECISIONS] == [f"{n:04}" for n in range(1, len(DECISIONS) + 1)]


# --- names ---


def commands_by_name() -> dict[str, Any]:
    assert commands.app is entry.app
    top: Any = typer.main.get_command(entry.app)
    found = {"": top, **top.commands}
    for name, command in top.commands.items():
        found.update({f"{name} {under}": it for under, it in getattr(command, "commands", {}).items()})
    return found


def options() -> set[str]:
    return {"--help"} | {option for each in commands_by_name().values() for it in each.params for option in it.opts}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_option_on_a_page_is_one_of_the_command(page: Path) -> None:
    for span in re.findall(r"`([^`\n]+)`", page.read_text()):
        if "python -m" not in span and not span.startswith("make "):
            for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", span):
                assert option in options(), f"{named(page)}: {option} in {span!r}"


def test_commands_and_options_that_messages_name_exist() -> None:
    text = sources()
    for name in re.findall(r"\b(?:see|with|run|reads?|than) squeezeflow ([a-z]+)", text):
        assert name in commands_by_name(), name
    for option in re.findall(r"\b(?:with|both|give|take|name|use|and|of) (--[a-z][a-z-]*)", text):
        assert option in options(), option


def test_every_parameter_set_on_a_page_is_accepted() -> None:
    changes = [found for page in PAGES for found in re.findall(r"--set (\w+=[\w.]+)", page.read_text())]
    assert changes
    for change in changes:
        if change != "name=value":
            squeeze.params_from(commands.settings_of([change]))


def test_every_count_on_the_page_of_faults_is_one_that_imports_report() -> None:
    said = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", (ROOT / "docs" / "data-quality.md").read_text()))
    assert len(said) > 12
    fields, code = set(importing.FileReport.__struct_fields__), sources()
    assert [name for name in sorted(said) if name not in fields and f'"{name}"' not in code] == []


def test_every_count_that_imports_report_is_on_the_page_of_faults() -> None:
    counted = set(re.findall(r"(?:repaired|set_aside)\[\"(\w+)\"\]", sources()))
    assert len(counted) > 8
    page = (ROOT / "docs" / "data-quality.md").read_text()
    assert [name for name in sorted(counted) if f"`{name}`" not in page] == []


def test_every_table_of_the_store_is_on_its_page() -> None:
    page = (ROOT / "docs" / "storage.md").read_text()
    rows = re.findall(r"^\| (`[^|]*`) \|", page, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(tables.TABLES)


def test_the_venue_protocol_on_the_map_has_the_names_of_the_code() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().split("## How a venue is added")[1].split("##")[0]
    for name in ("subscribe", "parse"):
        assert f"`{name}" in table
        assert callable(getattr(venues.Venue, name))


def test_assets_that_can_be_simulated_are_those_on_the_page() -> None:
    words = r"can hold the assets ([A-Z, ]+) and ([A-Z]+), .* names: all, until"
    found = re.search(words, text_of("docs/simulator.md"))
    assert found is not None
    assert {*found[1].split(", "), found[2]} == set(PROFILES)
    assert set(load_assets()) == set(PROFILES)


# --- figures: the words of a page, and whether the code says the same ---


def minutes(lengths: tuple[int, int]) -> str:
    return f"{round(lengths[0] / 60)}–{round(lengths[1] / 60)} min"


FIGURES: dict[str, list[tuple[str, bool]]] = {
    "docs/domain.md": [
        ("over half an hour, one hour and four hours", squeeze.WINDOWS[2:] == (1800, 3600, 14_400)),
        ("over 15 and 30 minutes", squeeze.WINDOWS[1:3] == (900, 1800)),
        ("pull apart by two swings", PARAMS.divergence_min == 2),
        ("stays armed for half an hour", PARAMS.divergence_armed_s == 1800),
        ("Entry at 4, if nothing blocks", PARAMS.entry_score == 4),
        ("smaller than twice the cost", PARAMS.cost_multiple == 2),
        ("two percent of equity, times the tier's factor", PARAMS.risk_per_trade == 0.02),
        ("an optional time stop", PARAMS.time_stop_tier_1_h == 0),
        ("sampled each minute over 24 hours", squeeze.DAY_MINUTES == 1440),
    ],
    "docs/architecture.md": [
        ("rows of the day + 28 h before", WARMUP_S == SPEC.warmup_s == 28 * 3600),
        ("0 done, 2 wrong request, 42 a hole in the data, 43 a spec", CODES[:3] == [2, 42, 43]),
        ("130 stopped by Ctrl-C", CODES[3] == 130),
    ],
    "docs/adr/0002-decimal-scales.md": [("a year of 1e14 USD", YEAR_USD_MAX == 10**14)],
    "docs/adr/0005-readings-of-the-definition.md": [
        ("needs 240 samples of its swing", squeeze.SAMPLES_MIN == 240),
        ("given up after 60 seconds without volume", exchange.CARRY_S_MAX == 60),
        ("used for at most 60 seconds after it was known", RowParams._field_defaults["age_s_max"] == 60),
    ],
    "docs/data-quality.md": [
        ("below 0.8 among the last 60 seconds", [squeeze.QUALITY_MIN_PPM, squeeze.QUALITY_S] == [800_000, 60]),
        ("later than two seconds after its second was closed", filebars.LAG_S == 2),
        ("between 2009 and 2100", [digits.TIME_NS_MIN, digits.TIME_NS_MAX] == [1230768000 * 10**9, 4102444800 * 10**9]),
        ("in between up to an hour", BarParams._field_defaults["hole_s_max"] == 3600),
        ("by more than a second", repair.JITTER_NS == 10**9),
        ("A hundred prints or more at one instant", repair.FROZEN_ROWS_MIN == 100),
        ("silence of ten seconds or more", repair.FROZEN_SILENCE_NS == 10**10),
        ("at least a quarter as many", repair.FROZEN_RATIO_MAX == 4),
        ("event time + 60 s", series.OI_DELAY_S == 60),
        ("within 10 % of the bar's", float(series.UNIT_ERROR_MAX) == 0.1),
    ],
    "docs/simulated-exchange.md": [
        ("| 250 ms |", COSTS.latency_ms == 250),
        ("| 0.1 bp |", COSTS.half_spread_ppm == 10),
        ("| 1 bp at a share of 100 % |", COSTS.impact_ppm == 100),
        ("| at most 20 % |", COSTS.participation_max_ppm == 200_000),
        ("`CARRY_S_MAX` = 60 s", exchange.CARRY_S_MAX == 60),
        ("(5 bp taker, 2 bp maker:", [COSTS.taker_fee_ppm, COSTS.maker_fee_ppm] == [500, 200]),
        ("5 % of its cost as margin", ledger.MARGIN_PPM == 50_000),
        ("liquidation fee of 1.25 %", sorted(LISTED_FEES) == [12_500]),
        ("(1.5 % where no table is known)", schedules.UNLISTED[-1].liquidation_fee_ppm == 15_000),
        ("round trip of 10.6 bp", round(exchange.round_trip_cost(COSTS) * 1e4, 1) == 10.6),
        ("ten planted faults", len(mutants_exchange.MUTANTS) == 10),
    ],
    "docs/storage.md": [
        ("limited to 2 GB", supervisor.MEMORY_BYTES_MAX == 2 * 10**9),
        ("all 19 columns", len(Rows._fields) == 19),
        ("ends a minute after its last client", (embedded.open_store.__defaults__ or ())[0] == 60),
    ],
    "docs/simulator.md": [
        ("six slots of four hours; three in five hold an episode", [SLOT_S, _CHANCE] == [4 * 3600, 0.6]),
        (f"| imbalance | {minutes(_IMBALANCE_S)} |", _IMBALANCE_S[0] < _IMBALANCE_S[1]),
        (f"| reset | {minutes(_RESET_S)} |", _RESET_S[0] < _RESET_S[1]),
        (f"| move | {minutes(_MOVE_S)} |", _MOVE_S[0] < _MOVE_S[1]),
        (f"| after | {_AFTER_S // 60} min |", _AFTER_S > 0),
        ("Three in twenty fail", round(1 - _SUCCEEDS, 9) == 0.15),
    ],
}


@pytest.mark.parametrize(("page", "figures"), FIGURES.items(), ids=list(FIGURES))
def test_figures_on_pages_are_those_of_the_code(page: str, figures: list[tuple[str, bool]]) -> None:
    text = text_of(page)
    assert [words for words, _ in figures if words not in text] == [], (
        f"{page} no longer says this: mend it, or the list"
    )
    assert [words for words, holds in figures if not holds] == [], f"the code says otherwise than {page}"


def test_the_parts_of_a_score_add_up_to_what_the_page_says() -> None:
    phrase = re.search(r"\*\*Score\*\*, 0 to 10: (.*?)\. Entry", text_of("docs/domain.md"))
    assert phrase is not None
    assert sum(float(part) for part in re.findall(r"\(([\d.]+)\)", phrase[1])) == 10


# --- places ---


def test_no_file_names_a_folder_of_a_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout: which files belong to it is not known")
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    place = re.compile(r"(?<![\w.>}/-])/(?:work|root|Users|mnt)/\w")
    for name in filter(None, listed.split("\0")):
        try:
            text = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # a recording, packed, or a file that is just being moved
        found = place.search(text)
        assert found is None, f"{name} names {found and found[0]}…"


def test_packages_come_from_wherever_the_machine_is_told_to() -> None:
    for path in [ROOT / "requirements.lock", *ROOT.glob("pyproject.toml"), *ROOT.glob("libs/*/pyproject.toml")]:
        assert "://" not in path.read_text(), f"{named(path)} names a host"
