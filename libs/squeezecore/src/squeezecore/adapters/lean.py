"""Keep pandas out of processes that do not use it.

pyarrow asks, at its first conversion, whether a value is pandas', and imports pandas to find out where it is installed: a
second in every process. A command and its workers have no use for it; notebooks do, and do not call this.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from types import ModuleType


class _NoPandas(importlib.abc.MetaPathFinder):
    """Finds nothing, and pandas not at all."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:  # noqa: ARG002
        """Refuse pandas; leave every other name to the next finder."""
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is kept out of this process", name="pandas")


def leave_pandas_out() -> None:
    """Make `import pandas` fail in this process from now on."""
    if not any(isinstance(finder, _NoPandas) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoPandas())
