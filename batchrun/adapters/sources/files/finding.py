"""Turns the user's names into a list of files: globs, directories, addresses in stores.

A directory means every file below it with a known suffix, in the order of their paths. Names that
begin with ``_`` or ``.`` are not data (``_SUCCESS``, ``.crc``) and are skipped, in directories and
in globs, unless the glob spells them out. So are pipes, sockets and devices, which must be named
directly. A workbook or a ``.json`` file in a directory is data only if the directory has nothing
else: next to data of other formats such files describe it.

Folders named ``key=value`` below the directory, or from the first wildcard of a glob on, name
columns.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pyarrow import fs as arrow_fs

from batchrun.adapters.sources.files import own_results, storage
from batchrun.adapters.sources.files.pipes import passes
from batchrun.adapters.storage import filesystems
from batchrun.core.input.folders import Folders, columns_of
from batchrun.core.settings.addresses import local_path
from batchrun.core.text.wording import counted
from batchrun.errors import InputError

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".xlsb": "xlsx",
    ".xls": "xlsx",
    ".ods": "xlsx",
}
TEXT_FORMATS = ("jsonl", "json", "csv", "tsv")
UNKNOWN = "?"
"""The format of a pipe without a telling name."""

MINOR_FORMATS = ("json", "xlsx")
_SHEET = re.compile(r"(.*\.(?:xlsx|xlsm|xlsb|xls|ods))#(.+)", re.IGNORECASE | re.DOTALL)


class Found(NamedTuple):
    """An input file, the columns that its folders name, and the sheet of a workbook."""

    path: str
    folders: Folders = ()
    sheet: str | None = None


_TEXT = (".txt", ".text", ".md", ".log")
_OF_LINES = (
    "--format says which it is. If each line is a text, make rows of them, for --prompt "
    "'{{ text }}':\n  jq -R '{text: .}' FILE.txt > FILE.jsonl"
)


def format_named(path: str) -> str | None:
    """The format according to a file's name, or None."""
    name = storage.Stamp(path, 0, 0).name
    suffix = storage.suffix_of(name)
    if suffix not in storage.CODECS:
        return FORMATS.get(suffix)
    inner = FORMATS.get(storage.suffix_of(name[: -len(suffix)]))
    return inner if inner in TEXT_FORMATS else None


def format_of(files: Sequence[str], given: str, once: str | None = None) -> str:
    """The one format of all files; ``once`` is the one of them that can be read only once.

    Raises ``InputError`` if it is not known, or there are several.
    """
    if once is not None:
        return _format_of_pipe(once, files, given)
    if given != "auto":
        packed = next((f for f in files if storage.suffix_of(f) in storage.CODECS), None)
        if given in ("parquet", "xlsx") and packed is not None:
            what = "Parquet" if given == "parquet" else "a workbook"
            message = f"input {packed}: {what} is compressed inside; unpack the file first"
            raise InputError(message)
        return given
    found: dict[str, str] = {}
    for name in files:
        kind = format_named(name)
        if kind is None:
            suffix = storage.suffix_of(name)
            known = ", ".join(FORMATS)
            message = (
                f"input {name}: {suffix or 'no suffix'} is not a format that can be read here "
                f"({known}; text also with .gz or .zst behind); "
                + (_OF_LINES if suffix in _TEXT else "set it with --format")
            )
            raise InputError(message)
        found.setdefault(kind, name)
    if len(found) > 1:
        message = f"one run reads one format; got {' and '.join(found.values())}"
        raise InputError(message)
    return next(iter(found))


def _format_of_pipe(path: str, files: Sequence[str], given: str) -> str:
    what = "standard input" if path == storage.STDIN else "what can be read only once"
    if len(files) > 1:
        message = f"input {path}: {what} is an input of its own; name no other files with it"
        raise InputError(message)
    kind = format_named(path) or UNKNOWN if given == "auto" else given
    if kind in ("parquet", "xlsx"):
        named = "Parquet" if kind == "parquet" else "a workbook"
        message = f"input {path}: {named} cannot be read from a pipe; save it to a file first"
        raise InputError(message)
    return kind


def expand(names: Sequence[str], given_format: str) -> list[Found]:
    """The input files, in the order named; those of a directory or glob by path.

    Raises ``InputError`` for a directory or glob without data, and for the results of a run.
    """
    files: list[Found] = []
    for name in names:
        if name == storage.STDIN:
            files.append(Found(name))
            continue
        path, sheet = _sheet(name)
        local = local_path(path)
        if local is not None:
            own_results.refuse(path, ())
        found = _remote(path, given_format) if local is None else _local(local, given_format)
        own_results.refuse(path, [each.path for each in found])
        files += (each._replace(sheet=sheet) for each in found)
    return files


def _sheet(name: str) -> tuple[str, str | None]:
    """A workbook and its sheet, if a name has both: ``FILE.xlsx#SHEET``."""
    found = _SHEET.fullmatch(name)
    if found is None:
        return name, None
    local = local_path(name)
    if local is not None and Path(local).exists():
        return name, None
    return found[1], found[2]


def _local(path: str, given_format: str) -> list[Found]:
    folder = Path(path)
    if folder.is_dir():
        found = sorted(each for each in _below(path) if not passes(each))
        return _with_folders(_data(path, found, given_format), path.rstrip("/").count("/") + 1)
    if not glob.has_magic(path) or folder.exists():
        return [Found(path)]
    matched = [p for p in glob.glob(path, recursive=True) if not Path(p).is_dir()]  # noqa: PTH207 - Path.glob drops "./" and takes no absolute pattern
    found = _matched(path, sorted(p for p in matched if not _hidden(p, path) and not passes(p)))
    return _with_folders(found, _fixed(path))


def _with_folders(paths: Sequence[str], above: int) -> list[Found]:
    """Files with the columns that their folders name, without the first ``above`` folders."""
    return [Found(path, columns_of(path.split("/")[above:-1])) for path in paths]


def _fixed(pattern: str) -> int:
    """How many parts of a glob are before its first wildcard."""
    parts = pattern.split("/")
    return next(place for place, part in enumerate(parts) if glob.has_magic(part))


def _below(path: str) -> Iterator[str]:
    def stop(error: OSError) -> None:
        message = f"input {error.filename}: {error.strerror}"
        raise InputError(message)

    for base, folders, names in os.walk(path, onerror=stop, followlinks=True):
        folders[:] = [name for name in folders if name[0] not in "._"]
        yield from (os.path.join(base, name) for name in names if name[0] not in "._")  # noqa: PTH118 - the path as it was given


def _remote(address: str, given_format: str) -> list[Found]:
    there = storage.place(address)
    shown = storage.Stamp(address, 0, 0).name
    try:
        if not glob.has_magic(there.path):
            info = there.system.get_file_info(there.path)
            if info.type != arrow_fs.FileType.Directory:
                return [Found(address)]
            keys = [
                key
                for key in _keys(there, there.path)
                if not any(part[0] in "._" for part in key[len(there.path) + 1 :].split("/"))
            ]
            above = there.path.rstrip("/").count("/") + 1
            found = {there.address(key): key for key in keys}
            return [
                Found(each, columns_of(found[each].split("/")[above:-1]))
                for each in _data(shown, list(found), given_format)
            ]
        fixed = re.split(r"[*?\[]", there.path)[0].rpartition("/")[0]
        pattern = there.path.split("/")
        keys = [
            key
            for key in _keys(there, fixed)
            if _matches(key.split("/"), pattern) and not _hidden(key, there.path)
        ]
    except OSError as error:
        message = f"input {shown}: {error}"
        raise InputError(message) from None
    _matched(shown, keys)
    above = _fixed(there.path)
    return [Found(there.address(key), columns_of(key.split("/")[above:-1])) for key in keys]


def _keys(there: filesystems.Place, base: str) -> list[str]:
    selector = arrow_fs.FileSelector(base, allow_not_found=True, recursive=True)
    infos = there.system.get_file_info(selector)
    return sorted(info.path for info in infos if info.type == arrow_fs.FileType.File)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a glob, both split into parts: ``**`` is any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[n:], pattern[1:]) for n in range(len(parts) + 1))
    return (
        bool(parts)
        and fnmatch.fnmatchcase(parts[0], pattern[0])
        and _matches(parts[1:], pattern[1:])
    )


def _hidden(path: str, pattern: str) -> bool:
    """Whether a glob matched a hidden name (``_`` or ``.``) that it does not spell out."""
    spelled = [part for part in pattern.split("/") if part[:1] in ("_", ".")]
    return any(
        part[:1] in ("_", ".") and not any(fnmatch.fnmatchcase(part, known) for known in spelled)
        for part in path.split("/")
    )


def _data(folder: str, found: list[str], given_format: str) -> list[str]:
    kinds = {f: format_named(f) for f in found}
    major = {kind for kind in kinds.values() if kind is not None} - set(MINOR_FORMATS)
    passed = (None, *MINOR_FORMATS) if major else (None,)
    data = [f for f in found if given_format != "auto" or kinds[f] not in passed]
    if not data:
        known = (
            "no file at all"
            if not found
            else f"{counted(len(found), 'file')}, none of a known suffix"
        )
        message = f"input {folder}: the directory holds {known} ({', '.join(FORMATS)})"
        raise InputError(message)
    return data


def _matched(pattern: str, found: list[str]) -> list[str]:
    if not found:
        message = f"input {pattern}: no file matches"
        raise InputError(message)
    return found
