"""The evaluation that a config file or keywords define."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from batchrun.adapters.environment.configuration import read_config
from batchrun.adapters.storage.home import at_home
from batchrun.core.evaluation.definitions import Evaluation, evaluation
from batchrun.core.evaluation.judges import JUDGE
from batchrun.core.settings.resolve import MEASURES
from batchrun.errors import UsageError
from batchrun.rundir import inspect
from batchrun.rundir.judges.standing import recorded_judges


def evaluation_of(
    config: str | os.PathLike[str] | None,
    directory: str | os.PathLike[str] | None = None,
    **given: Mapping[str, Any] | None,
) -> Evaluation:
    """The tables ``[scores]``, ``[metrics]``, ``[gates]`` and ``[judge]`` of a config file, with
    the given ones laid over them, entry by entry. It includes the judges that ``directory``
    recorded. Raises ``UsageError``, also if there are no tables.
    """
    raw = {} if config is None else read_config(at_home(os.fspath(config)))
    tables: dict[str, Any] = {}
    if not any(raw.get(name) or given.get(name) for name in MEASURES):
        message = f"{config or 'the call'} has no [scores], [metrics] or [gates]"
        raise UsageError(message)
    if directory is not None:
        store = inspect.look_at(os.fspath(directory), None).store
        judges = {judge.name: judge.public() for judge in recorded_judges(store)}
        raw = raw | {JUDGE: {**judges, **(raw.get(JUDGE) or {})}}
    for name in MEASURES:
        own, more = raw.get(name) or {}, given.get(name)
        both = isinstance(own, dict) and isinstance(more, Mapping)
        tables[name] = {**own, **more} if both and more is not None else (more or own)
    return evaluation(*(tables[name] for name in MEASURES))
