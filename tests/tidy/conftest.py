"""What the tidy tests read: the package's syntax trees, the repository's texts."""

import ast
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Not part of the repository: made by make, by tools and by runs of batchrun itself.
SKIPPED_DIRECTORIES = {
    ".git",
    ".hypothesis",
    ".venv",
    "build",
    "checkpoint",
    "demo-run",
    "dist",
    "__pycache__",
}


@dataclass(frozen=True)
class Module:
    """One module of the package: its dotted name, its file, and its parsed source."""

    name: str
    path: str
    source: str
    tree: ast.Module

    @classmethod
    def parse(cls, path: str, source: str) -> "Module":
        """The module that `source` would be, if it stood at `path` (from the repository's root)."""
        parts = Path(path).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        return cls(name, path, source, ast.parse(source, path))


def modules_under(folder: str) -> list[Module]:
    """Every module under a folder of the repository."""
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, f"no modules under {folder}/: the tidy tests would prove nothing"
    return [Module.parse(str(file.relative_to(ROOT)), file.read_text("utf-8")) for file in files]


@pytest.fixture(scope="session")
def package() -> list[Module]:
    """Every module under `batchrun/`."""
    return modules_under("batchrun")


@pytest.fixture(scope="session")
def package_and_harness(package: list[Module]) -> list[Module]:
    """Those, and what the tests stand on."""
    return package + modules_under("tests/harness")


@pytest.fixture(scope="session")
def parse_module():
    """`Module.parse`, for tests that show a rule turning red."""
    return Module.parse


@pytest.fixture(scope="session")
def repository_texts() -> dict[str, str]:
    """Every text file of the repository, by its path from the root."""
    texts = {}
    for directory, names, files in os.walk(ROOT):
        names[:] = [
            name
            for name in names
            if name not in SKIPPED_DIRECTORIES and not name.endswith(("_cache", ".egg-info"))
        ]
        for file in files:
            path = Path(directory, file)
            try:
                texts[str(path.relative_to(ROOT))] = path.read_text("utf-8")
            except UnicodeDecodeError:
                continue  # a binary file: Parquet, images
    return texts
