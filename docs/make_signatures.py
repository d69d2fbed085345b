"""Writes the keywords of ``api.Options`` into the signatures of batchrun/calls.py: `make docs`."""
# ruff: noqa: INP001 - a script next to the pages that it helps to keep

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ROOT / "batchrun" / "api.py"
CALLS = ROOT / "batchrun" / "calls.py"
MARKED = re.compile(
    r"(    # Made by `make docs`, from here [.]{3}\n)(.*?)(    # [.]{3} to here[.]\n)", re.DOTALL
)


def keywords(source: str) -> Iterator[tuple[str, str]]:
    """The names and annotations of the class ``Options``, as they are written there."""
    (options,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "Options"
    )
    for node in options.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, ast.unparse(node.annotation).replace("'", '"')


def filled(calls: str, options: str) -> str:
    """The text of calls.py with the keywords that these options have."""
    lines = "".join(f"    {name}: {kind} | None = None,\n" for name, kind in keywords(options))
    return MARKED.sub(lambda found: found[1] + lines + found[3], calls)


if __name__ == "__main__":
    before = CALLS.read_text("utf-8")
    CALLS.write_text(filled(before, OPTIONS.read_text("utf-8")), "utf-8")
