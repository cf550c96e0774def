"""The command people type, and the few functions a notebook wants: `load_run`, `rows`, `bars`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from squeezeflow.notebook import Run, bars, load_run, rows

__all__ = ["Run", "bars", "load_run", "rows"]


def __getattr__(name: str) -> Any:
    """Import the notebook functions when they are used: the command must start fast."""
    if name in __all__:
        from squeezeflow import notebook  # noqa: PLC0415

        return getattr(notebook, name)
    raise AttributeError(f"module 'squeezeflow' has no attribute {name!r}")
