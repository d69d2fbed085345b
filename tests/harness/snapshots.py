"""Snapshots of a run, for what shows them."""

import dataclasses
from typing import Any

from batchrun.engine.observe.monitor import Snapshot


def snapshot(**given: Any) -> Snapshot:
    """A snapshot of a run at its start, with these fields."""
    plain: dict[str, Any] = dict.fromkeys((field.name for field in dataclasses.fields(Snapshot)), 0)
    plain |= {"state": "running", "bound_by": None, "money": None, "cost_usd": None}
    plain |= {"endpoints": (), "notices": (), "errors": {}, "examples": {}, "outputs": {}}
    return Snapshot(**(plain | given))
