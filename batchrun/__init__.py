"""batchrun: chat completions over a data set, with every answer accounted for.

The command ``batchrun`` and the functions ``run``, ``arun`` and ``stream`` do the same; see
README.md and docs/python.md. Importing the package is cheap: nothing heavier than the error tree is
loaded before one of the functions is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.errors import (
    BatchrunError,
    DamagedError,
    InputError,
    InputLostError,
    LocalServerError,
    RunChangedError,
    RunLockedError,
    RunStoppedError,
    RunUnfinishedError,
    ScoringError,
    StorageError,
    UsageError,
)

if TYPE_CHECKING:
    from batchrun.api import Options, RowOutcome, Summary, compare, judge, score
    from batchrun.calls import arun, run, stream

__version__ = "0.2.0"
__all__ = [
    "BatchrunError",
    "DamagedError",
    "InputError",
    "InputLostError",
    "LocalServerError",
    "Options",
    "RowOutcome",
    "RunChangedError",
    "RunLockedError",
    "RunStoppedError",
    "RunUnfinishedError",
    "ScoringError",
    "StorageError",
    "Summary",
    "UsageError",
    "__version__",
    "arun",
    "compare",
    "judge",
    "run",
    "score",
    "stream",
]
_LATE = {
    **dict.fromkeys("Options RowOutcome Summary compare judge score".split(), "api"),
    **dict.fromkeys("arun run stream".split(), "calls"),
}
"""The public names that are loaded when they are asked for, and their modules."""


if not TYPE_CHECKING:  # a type checker sees the names above, and no others

    def __getattr__(name: str) -> Any:
        """Load the functions on first use."""
        if name not in _LATE:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    """All public names, the late ones too."""
    return sorted({*globals(), *__all__})
