"""The map in docs/architecture.md is the country: what it names is there, and no module is missing from it."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
NAMES_BEGIN_BEFORE = 12  # a line that begins further right goes on with the words of the line above
SHOWN = ("libs/squeezecore/src/squeezecore", "libs/squeezeflow/src/squeezeflow")


def shown() -> Iterator[tuple[Path, str]]:
    """Yield each path of the map with the words beside it. A path lies in the last folder above it, further left."""
    block = re.search(r"## The rooms\n+```\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    folders: list[tuple[int, Path]] = []
    for line in block[1].splitlines():
        indent = len(line) - len(line.lstrip())
        if not line.strip() or indent >= NAMES_BEGIN_BEFORE:
            continue
        while folders and folders[-1][0] >= indent:
            folders.pop()
        names = re.match(r"(?:[\w./]+(?:/|\.\w+)(?: |$)|Makefile(?: |$))+", line.strip())
        assert names is not None, f"no file or folder in {line!r}"
        for name in names[0].split():
            yield (folders[-1][1] if folders else ROOT) / name, line.strip()[names.end() :].strip()
        if names[0].split()[-1].endswith("/"):
            folders.append((indent, (folders[-1][1] if folders else ROOT) / names[0].split()[-1]))


def test_everything_on_the_map_exists_and_is_described() -> None:
    found = list(shown())
    assert len(found) > 40
    for path, _ in found:
        assert path.exists(), path.relative_to(ROOT)
    bare = [path.name for path, words in found if not words and not any(path in other.parents for other, _ in found)]
    assert bare == []


def test_every_module_is_on_the_map() -> None:
    listed = {path for path, _ in shown()}
    whole = {path for path in listed if path.is_dir() and not any(path in other.parents for other in listed)}
    missing = [
        module.relative_to(ROOT).as_posix()
        for room in SHOWN
        for module in sorted((ROOT / room).rglob("*.py"))
        if module.name != "__init__.py" and module not in listed and not whole & set(module.parents)
    ]
    assert missing == []


def test_the_rooms_of_the_tests_are_those_that_the_page_names() -> None:
    rooms = {ROOT / room for room in re.findall(r"`(tests/\w+)`", PAGE.read_text())}
    assert {path.parent for path in (ROOT / "tests").rglob("test_*.py")} == rooms


def test_the_core_of_the_map_is_what_the_layer_rules_watch() -> None:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    watched = next(set(rule["source_modules"]) for rule in rules if rule["type"] == "forbidden")
    pure = {
        f"squeezecore.{path.stem}"
        for path in (ROOT / SHOWN[0]).iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem not in ("__init__", "adapters")
    }
    assert pure == watched
