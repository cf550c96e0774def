"""What every test may ask for."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared: how long one example takes says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

pytest_plugins = ["support.bus", "support.store"]

GOLDEN = Path(__file__).parent / "fixtures" / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files anew instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, list[str]], None]:
    """Compare sorted lines with the golden file of a name; with --update-golden write them instead."""

    def compare(name: str, lines: list[str]) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n")
        expected = path.read_text().splitlines()
        changed = [f"- {line}" for line in sorted(set(expected) - set(lines))]
        changed += [f"+ {line}" for line in sorted(set(lines) - set(expected))]
        assert not changed, "the run differs from its golden file; if it should, use --update-golden:\n" + "\n".join(
            changed[:40]
        )

    return compare
