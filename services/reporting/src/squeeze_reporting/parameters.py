"""What a backtest can be asked with, as JSON Schema made from the models: a form needs to know no field of its own."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from squeezecore.spec import BacktestSpec, Costs, Limits
from squeezecore.squeeze import SqueezeParams

UNITS = {"_s": "s", "_ppm": "ppm", "_usd": "USD", "_usd_max": "USD", "_ms": "ms", "_h": "h", "_s_max": "s"}


@functools.cache
def schema() -> dict[str, Any]:
    """Return the schemas of a spec, of the strategy's parameters, of costs and limits, each field with title and default."""
    kinds = (BacktestSpec, SqueezeParams, Costs, Limits)
    _, parts = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    for part in parts.values():
        for name, field in part.get("properties", {}).items():
            field.setdefault("title", title(name))
            unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), None)
            if unit is not None:
                field["unit"] = unit
    return {
        "$defs": parts,
        "spec": {"$ref": "#/$defs/BacktestSpec"},
        "params": {"$ref": "#/$defs/SqueezeParams"},
        "costs": {"$ref": "#/$defs/Costs"},
        "limits": {"$ref": "#/$defs/Limits"},
    }


def title(name: str) -> str:
    """Write a field's name as people read it.

    >>> title("imbalance_expires_s")
    'Imbalance expires s'
    """
    words = name.replace("_", " ")
    return words[0].upper() + words[1:]
