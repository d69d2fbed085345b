"""Loads all that ``batchrun run`` loads. A process that did can be forked for every session of a
test: a process of its own, as far as the kernel and SIGKILL are concerned, half a second sooner.
"""

from batchrun.cli.process import load_arrow

load_arrow()

from batchrun import assemble  # noqa: E402 - Arrow comes first, without what it would take along
from batchrun.adapters.http import transport  # noqa: E402
from batchrun.adapters.sources import jsonl, parquet  # noqa: E402
from batchrun.adapters.storage import object_store  # noqa: E402
from batchrun.cli import run  # noqa: E402
from batchrun.views import ending  # noqa: E402
from tests.harness import crashpoints  # noqa: E402

__all__ = [
    "assemble",
    "crashpoints",
    "ending",
    "jsonl",
    "object_store",
    "parquet",
    "run",
    "transport",
]
