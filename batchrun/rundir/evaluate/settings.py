"""The evaluation that a config file, or keywords, ask for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from batchrun.adapters.environment.configuration import read_config
from batchrun.adapters.storage.home import at_home
from batchrun.core.evaluation.definitions import Evaluation, evaluation
from batchrun.core.settings.resolve import MEASURES
from batchrun.errors import UsageError


def evaluation_of(
    config: str | os.PathLike[str] | None, **given: Mapping[str, Any] | None
) -> Evaluation:
    """The tables ``[scores]``, ``[metrics]`` and ``[gates]`` of a config file, with those that are
    given laid over them, entry by entry. Raises ``UsageError``, also where there are none.
    """
    raw = {} if config is None else read_config(at_home(os.fspath(config)))
    tables: dict[str, Any] = {}
    for name in MEASURES:
        own, more = raw.get(name) or {}, given.get(name)
        both = isinstance(own, dict) and isinstance(more, Mapping)
        tables[name] = {**own, **more} if both and more is not None else (more or own)
    found = evaluation(*(tables[name] for name in MEASURES))
    if not found:
        message = f"{config or 'the call'} has no [scores], [metrics] or [gates]"
        raise UsageError(message)
    return found
