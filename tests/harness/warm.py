"""Loads all of batchrun, and what its commands load. A process that did can be forked for every
command of a test: a process of its own, as far as the kernel and SIGKILL are concerned, most of a
second sooner.
"""

import gc
import importlib
import pkgutil

import batchrun
from batchrun.adapters.environment import tokenizers
from batchrun.cli import process

LIBRARIES = (
    *("duckdb", "genai_prices", "jsonschema_rs", "minijinja", "rich.live", "rich.progress"),
    "numpy",  # DuckDB's, for functions of ours; Arrow has been told that it is absent
)
"""What is imported late, and by several commands."""

process.load_arrow(compute=True)  # without what Arrow would take along

for module in pkgutil.walk_packages(batchrun.__path__, "batchrun."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
# What is loaded is no garbage: a collection in a forked process would write to all of it, and so
# copy it. DuckDB comes later, as it complains at the end of what it cannot free.
gc.freeze()
for name in (*LIBRARIES, "tests.harness.crashpoints"):
    importlib.import_module(name)
tokenizers.Tokenizers().count("any model")
