"""Paths as users write them: a local path, ``file://...``, or the address of something elsewhere.

A key in an object store is taken literally (``%20`` is three characters), as the stores' own
commands do. A query (``?endpoint_override=...``) configures the file system; it may hold a secret,
so it is never shown.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_QUERY = re.compile(r"\?(?=[A-Za-z0-9_.-]+=)")


def scheme_of(path: str) -> str | None:
    """The scheme of an address in lower case; None for a path without one."""
    match = _SCHEME.match(path)
    return None if match is None else match[1].lower()


def local_path(path: str) -> str | None:
    """The local path that is meant, or None for an address in a store."""
    match scheme_of(path):
        case None:
            return path
        case "file":
            return unquote(urlsplit(path).path)
        case _:
            return None


def is_remote(path: str) -> bool:
    """Whether a path is the address of something that is no local file."""
    return local_path(path) is None


def split_query(address: str) -> tuple[str, str]:
    """An address without its query, and the query with its question mark (or nothing)."""
    parts = _QUERY.split(address, maxsplit=1)
    return parts[0], "" if len(parts) == 1 else "?" + parts[1]


def format_address(path: str) -> str:
    """A path as it may be shown and compared."""
    return split_query(path)[0].rstrip("/") if is_remote(path) else path


def below(folder: str, name: str) -> str:
    """What is called ``name`` in a folder, as text that opens it."""
    if not is_remote(folder):
        return str(PurePath(folder, name))
    bare, query = split_query(folder)
    return f"{bare.rstrip('/')}/{name}{query}"


FILE_SUFFIXES = (".parquet", ".pq", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".xlsx")
"""Names that end like this are meant as files, and a run directory is none."""


def file_meant(directory: str) -> str | None:
    """The name without its suffix where the name of a new run directory is that of a file of data;
    None where it is not.
    """
    bare = split_query(directory)[0].rstrip("/")
    lower = bare.lower()
    suffix = next((one for one in FILE_SUFFIXES if lower.endswith(one)), None)
    stem = bare[: -len(suffix)] if suffix else ""
    return stem if stem and not stem.endswith("/") else None
