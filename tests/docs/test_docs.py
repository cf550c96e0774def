"""What README, docs and help say is so: links lead somewhere, commands and targets exist, examples run."""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
import typer
from rich.console import Console

import squeezecore
import squeezeflow
from squeezecore import spec, squeeze
from squeezecore.errors import DataHoleError, SpecError, UsageError
from squeezecore.squeeze import SqueezeParams
from squeezeflow import commands, notebook
from squeezeflow import main as entry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPT = ROOT / "scripts" / "demo.sh"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TARGET = re.compile(r"^([a-z][a-z-]*):([^#\n]*)(?:## (.*))?$", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
KNOWN_HOSTS = re.compile(
    r"(127\.0\.0\.1|localhost|host|[a-z]+\.binance\.com|data\.binance\.vision|www\\?\.w3\\?\.org)(:.*)?$"
)  # the last one names SVG, nobody asks it


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as a code host makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


# --- pages ---


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        assert "://" not in path, f"{link}: a page here stands on its own"
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_found_from_the_readme() -> None:
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen:
            continue
        seen.add(page)
        if page.is_dir():
            ahead += sorted(page.glob("*.md"))
        elif page.suffix == ".md":
            linked = LINK.findall(page.read_text())
            ahead += [(page.parent / link.partition("#")[0]).resolve() for link in linked if not link.startswith("#")]
    assert set(PAGES) <= seen


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 60


def test_the_glossary_has_the_words_of_the_field() -> None:
    text = (ROOT / "docs" / "domain.md").read_text()
    words = {
        part.strip().lower()
        for row in re.findall(r"^\| (\*\*.*?) \|", text, re.MULTILINE)
        for part in re.split(r"[*/]+", row)
    }
    for word in ("venue", "instrument", "symbol", "asset", "taker", "maker", "side", "trade", "qty", "volume", "delta", "cvd", "flow",
                 "open interest", "funding", "basis", "known at", "bar", "row", "candle", "watermark", "complete", "swing", "signal",
                 "order", "fill", "denied", "rejected", "unknown", "tape", "seam", "run", "receipt"):  # fmt: skip
        assert word in words, word
    for word in ("BULLISH", "BEARISH", "squeeze", "gap", "Hole"):
        assert word in text, word


def test_every_exit_code_is_in_the_help() -> None:
    for code in (0, *(error.exit_code for error in (UsageError, DataHoleError, SpecError)), entry.STOPPED):
        assert re.search(rf"\b{code}\b", entry.EPILOG), code


# --- make ---


def targets() -> dict[str, str | None]:
    """Return the Makefile's targets with their help."""
    return {name: words or None for name, _, words in TARGET.findall((ROOT / "Makefile").read_text())}


def test_every_target_has_its_line_of_help() -> None:
    found = targets()
    assert {"help", "venv", "demo", "test", "check", "bench"} <= set(found)
    assert [name for name, words in found.items() if not words] == []
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == set(found)
    told = subprocess.run(["make", "-s", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    assert [line.split()[1] for line in told.splitlines()] == list(found)


@pytest.mark.parametrize("page", [*PAGES, ROOT / ".ci" / "run"], ids=named)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"(?:`|^)make ([a-z][a-z-]*)", text, re.MULTILINE):
        assert name in targets(), f"make {name}"


# --- the command ---


def tree() -> Any:
    """Return the command with everything under it."""
    assert commands.app is entry.app
    return typer.main.get_command(entry.app)


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command with the words that reach it, groups included."""
    yield path, command
    for name, under in getattr(command, "commands", {}).items():
        yield from leaves(under, (*path, name))


ALL = list(leaves(tree()))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "squeezeflow" for path, _ in ALL])
def test_every_command_and_option_has_help(path: tuple[str, ...], command: Any) -> None:
    assert command.help or command.callback.__doc__, path
    with pytest.raises(SystemExit) as ended, Console(width=100).capture():
        entry.app([*path, "--help"])
    assert ended.value.code == 0
    for parameter in command.params:
        if parameter.name not in ("help", "install_completion", "show_completion"):
            assert getattr(parameter, "help", None), f"{' '.join(path)} {parameter.name}"
    if path and "assets" not in path:
        assert any("--json" in parameter.opts for parameter in command.params), path


def lines_with_commands() -> list[tuple[str, str]]:
    """Return every command line that README, docs and the demo show, with the page it stands on."""
    found = []
    for page in (*PAGES, SCRIPT):
        for line in page.read_text().splitlines():
            if "printf" not in line:
                shown = re.findall(r"`(squeezeflow [^`]*)`|(?:^|run |bin/)(squeezeflow .*)$", line)
                found += [(named(page), (inline or alone).split("  ")[0].strip()) for inline, alone in shown]
    return found


@pytest.mark.parametrize(("page", "line"), lines_with_commands())
def test_every_command_line_that_is_shown_is_one(page: str, line: str) -> None:
    words = [word for word in shlex.split(line, comments=True)[1:] if word != "…"]
    command, context = tree(), None
    while getattr(command, "commands", None) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert words == [] or command is not tree(), line
    if "--help" in words or (not words and "`" not in line):
        return
    if len(words) == 0:
        return  # a command that is named, not called
    context = command.make_context(command.name, list(words))  # parses, and refuses what does not exist
    assert not context.args, line


def test_the_shown_commands_are_found_at_all() -> None:
    shown = {line.split()[1] for _, line in lines_with_commands()}
    assert {"import", "download", "simulate", "data", "flow", "backtest", "explain", "params"} <= shown


def test_params_shows_every_parameter_with_meaning_bounds_and_default() -> None:
    text = squeeze.write_params(SqueezeParams())
    assert set(tomllib.loads(text)) == set(SqueezeParams.__struct_fields__)
    lines = text.splitlines()
    for name in SqueezeParams.__struct_fields__:
        place = next(n for n, line in enumerate(lines) if line.startswith(f"{name} = "))
        meaning, *bounds, default = lines[place - 1].removeprefix("# ").split("; ")
        assert len(meaning) > 10, name
        assert any(sign in " ".join(bounds) for sign in (">", "<")), name
        assert default == f"default {getattr(SqueezeParams(), name)}", name


@pytest.mark.parametrize("kind", [spec.Costs, spec.Limits])
def test_costs_and_limits_are_listed_with_default_and_meaning(kind: type[msgspec.Struct]) -> None:
    text = (ROOT / "docs" / "simulated-exchange.md").read_text()
    rows = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)}
    for field in msgspec.structs.fields(kind):
        default, bounds, meaning = rows[field.name]
        assert msgspec.json.decode(default.replace(",", "")) == field.default, field.name
        limits = [float(number) for number in re.findall(r"−?[\d.]+", bounds.replace(",", "").replace("−", "-"))]
        meta = getattr(get_type_hints(kind, include_extras=True)[field.name], "__metadata__", [msgspec.Meta()])[0]
        stated = [float(limit) for limit in (meta.ge, meta.gt, meta.le, meta.lt) if limit is not None]
        assert [abs(limit) for limit in limits] == [abs(limit) for limit in stated], field.name
        assert len(meaning) > 8, field.name


def test_notebook_functions_have_examples() -> None:
    for name in squeezeflow.__all__:
        thing = getattr(squeezeflow, name)
        assert thing is getattr(notebook, name)
        assert inspect.getdoc(thing), name
        assert name == "Run" or ">>> " in (inspect.getdoc(thing) or ""), name
        assert name in (ROOT / "README.md").read_text() or name in ("Run", "bars"), name


# --- examples ---


def modules() -> list[str]:
    """Return every module of the library that has an example."""
    names = [info.name for info in pkgutil.walk_packages(squeezecore.__path__, "squeezecore.")]
    found = []
    for name in names:
        origin = importlib.util.find_spec(name).origin  # type: ignore[union-attr]
        if origin is not None and ">>> " in Path(origin).read_text():
            found.append(name)
    return found


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_contracts_have_examples() -> None:
    assert {f"squeezecore.{name}" for name in ("market", "trading", "squeeze", "report", "wire")} <= set(modules())


def python_blocks() -> list[tuple[str, str]]:
    return [(named(page), code) for page in PAGES for kind, code in FENCE.findall(page.read_text()) if kind == "python"]


@pytest.mark.parametrize(("page", "code"), python_blocks())
def test_python_on_pages_runs(page: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, page, "exec"), {})
    assert capsys.readouterr().err == ""


# --- nothing of where it was made ---


def tracked() -> list[Path]:
    """Return the files under version control, or every file where there is none."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout: which files belong to it is not known")
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_foreign_host_or_a_place_of_this_machine() -> None:
    here = {str(ROOT), os.path.expanduser("~") + "/"} - {"/"}  # noqa: PTH111
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a recording, packed
        for place in here:
            assert place not in text, f"{named(path)} names {place}"
        for host in re.findall(r"(?:https?|wss?)://(?:[\w:]*@)?([^/\s\"'`)>{}]+)", text):
            assert KNOWN_HOSTS.match(host), f"{named(path)} names {host}"
        for line in text.splitlines():
            assert not re.match(r"\s*(--(extra-)?index-url|--find-links|-i) ", line), f"{named(path)}: {line}"
