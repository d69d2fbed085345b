"""Runs docs/notebook.ipynb and keeps what its cells put out: `make notebook`.

Only what may differ from run to run on its own is settled: names of temporary folders, and times.
"""
# ruff: noqa: INP001 - a script next to the notebook that it runs

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().with_name("notebook.ipynb")


def executed(path: Path, folder: Path, timeout_s: float = 300) -> Any:
    """The notebook with its outputs, run by a real kernel in a folder. Raises
    ``CellExecutionError``.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=timeout_s, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell began and ended
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(NOTEBOOK, NOTEBOOK.parent), NOTEBOOK)
