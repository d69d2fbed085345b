"""Makes this process lean. Only for our own processes: a library must not do it."""

from __future__ import annotations

import gc
import sys

from batchrun.adapters.system import platform

GC_OBJECTS = 50_000
_FORGONE = ("numpy", "pandas")


class _Absent:
    """An import hook that says that some packages are not installed."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:  # noqa: ARG004
        """Refuse them, leave the rest to the other finders."""
        if name in _FORGONE:
            raise ImportError(name)


def load_arrow(*, compute: bool = False) -> None:
    """Load Arrow without NumPy and pandas, before anything else loads it; with its functions over
    columns, where a command uses them.

    Arrow takes both if they are there and needs neither. NumPy costs 0.1 s of CPU and 20 MB at
    the start, pandas 0.3 s and 40 MB at the first list that becomes an array, or at the first
    timestamp that is read. Arrow's functions look for NumPy once more.

    From here on the collector looks at fewer of the new objects: what is loaded is no garbage.
    """
    gc.set_threshold(GC_OBJECTS, 20, 100)
    sys.meta_path.insert(0, _Absent)
    try:
        from batchrun.adapters.columns import schema as part_schema

        part_schema.decide_about_pandas()
        part_schema.choose_lean_pool()
        if compute:
            part_schema.load_functions()
    finally:
        sys.meta_path.remove(_Absent)


def make_lean() -> None:
    """Tune collector and allocator for a long run of many small objects, once all is imported.

    Rows make few cycles: the collector's default of a look at every 700 objects, which
    ``load_arrow`` changed, took a fifth of all CPU time. One arena for all threads, where glibc has
    arenas, saves memory (150 to 140 MB with 2 KB replies).
    """
    gc.freeze()
    platform.keep_one_arena()
