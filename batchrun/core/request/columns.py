"""Whether the names that templates use are in the input.

The evidence is a sample of rows. A column is there if any of them has it. A key inside a column
(``meta.title``) is missing only if some row has something else in that place: where the column was
null in every row, nobody knows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from batchrun.core.request.carried import COLUMNS_MAX
from batchrun.core.settings.parameters import SENT
from batchrun.core.text.legible import shell_word
from batchrun.errors import UsageError

Dotted = tuple[str, ...]
NAMES_SHOWN = 40
NEAR_SHOWN = 2
_TYPES = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list"}
_LIKELY = ("prompt", "question", "query", "text", "input", "instruction", "content", "message")
"""Names of columns that are probably what is to be asked."""
_IDS = re.compile(r"(?:^|[^a-z])(?:id|nr|no|key)$", re.IGNORECASE)
"""Names of columns that are probably not."""
_NO_NAME = re.compile(r"\W")
_WORDS = re.compile(r"\W+")


def named(header: Sequence[str], first: int = 1) -> list[str]:
    """The names of a header; those that are blank by their place, ``column_3`` for the third.

    A name that another column has gets an underscore behind it. ``first`` is the first one's place.
    """
    taken = set(header)
    names = []
    for place, name in enumerate(header, first):
        new = name
        if not name.strip():
            new = f"column_{place}"
            while new in taken:
                new += "_"
            taken.add(new)
        names.append(new)
    return names


def remark(file: str, made: Sequence[str]) -> str:
    """What to say of columns that the header of a file does not name."""
    shown = ", ".join(made[:5]) + (f" and {len(made) - 5:,} more" if len(made) > 5 else "")
    what = "a column has no name" if len(made) == 1 else f"{len(made):,} columns have no name"
    return f"{file}: {what} in the header; {'it is' if len(made) == 1 else 'they are'} {shown}"


def identifier(name: str) -> str:
    """The name by which a template reaches a column: what no identifier can hold is ``_``."""
    name = _NO_NAME.sub("_", name)
    return f"_{name}" if name[:1].isdigit() else name


def find(
    paths: Mapping[Dotted, str],
    columns: Mapping[str, str],
    rows: Iterable[Mapping[str, Any]],
    *,
    offered: Callable[[str], bool],
    called: Callable[[str, str], bool],
) -> dict[str, str]:
    """The column behind every name.

    ``paths`` are what templates look up, ``columns`` what settings name as it stands; both with
    the setting that does, for messages. ``rows`` are read only until everything was seen.
    ``offered`` tells the names that the template language has itself, ``called`` whether a template
    calls a name like a method. Raises ``UsageError`` naming what is missing, what uses it, the
    nearest name and the names there are.
    """
    search = _Search(paths, columns)
    for row in rows:
        search.observe(row)
        if search.found_all:
            break
    found = {name: name for name in columns} | {path[0]: path[0] for path in paths}
    for name, user in columns.items():
        if name not in search.known:
            raise _missing_column(user, name, list(search.known))
    for name in {path[0] for path in paths} - search.known.keys():
        behind = [column for column in search.known if identifier(column) == name]
        if len(behind) == 1:
            found[name] = behind[0]
        elif offered(name) and not behind:
            del found[name]
        else:
            user = next(user for path, user in paths.items() if path[0] == name)
            raise _missing_variable(user, name, list(search.known))
    for path, (value, part) in search.refuted.items():
        if not (hasattr(value, part) and called(paths[path], part)):
            raise _missing_key(paths[path], path, value, search.keys.get(path, ()))
    return found


class _Search:
    """What was seen so far of what is looked for."""

    def __init__(self, paths: Mapping[Dotted, str], columns: Mapping[str, str]) -> None:
        self._names = {path[0] for path in paths} | set(columns)
        self._open = {path for path in paths if len(path) > 1}
        self.known: dict[str, None] = {}
        self.refuted: dict[Dotted, tuple[object, str]] = {}
        self.keys: dict[Dotted, dict[str, None]] = {}

    @property
    def found_all(self) -> bool:
        """Whether nothing is left to look for."""
        return not self._open and self._names <= self.known.keys()

    def observe(self, row: Mapping[str, Any]) -> None:
        """Take in one row."""
        crowded = len(self.known) > COLUMNS_MAX
        self.known.update(dict.fromkeys(self._names & row.keys() if crowded else row))
        for path in list(self._open):
            self._follow(path, row)

    def _follow(self, path: Dotted, row: Mapping[str, Any]) -> None:
        value: Any = row.get(path[0])
        for part in path[1:]:
            if value is None:
                return
            if isinstance(value, list) and part.isdigit():
                value = value[int(part)] if int(part) < len(value) else None
            elif isinstance(value, Mapping) and part in value:
                value = value[part]
            else:
                self.refuted.setdefault(path, (value, part))
                if isinstance(value, Mapping):
                    self.keys.setdefault(path, {}).update(dict.fromkeys(value))
                return
        self._open.discard(path)
        self.refuted.pop(path, None)


def no_messages(file: str, names: list[str]) -> str:
    """What to say of rows none of which is a request: their columns, and a command that makes
    requests of them.
    """
    words = {name.casefold(): name for name in reversed(names)}
    free = [name for name in names if name not in SENT and not _IDS.search(name)]
    likely = next((words[word] for word in _LIKELY if word in words), (free or names)[0])
    prompt = f"'{{{{ {identifier(likely)} }}}}'"
    return (
        f"input {file}: there is no column `messages`, so its rows are not requests. Add --prompt "
        f"to make requests of the columns ({_listed([*map(identifier, names)])})"
        f"{_undivided(names)}, as in\n"
        f"  batchrun run {shell_word(file)} --prompt {prompt} --model M -o DIR"
    )


def _missing_column(user: str, name: str, names: list[str]) -> UsageError:
    return UsageError(
        f"{user} uses the column {name!r}, which the input does not have"
        f"{_nearest(name, names)} The columns are: {_listed(names)}{_undivided(names)}"
    )


def _missing_variable(user: str, name: str, names: list[str]) -> UsageError:
    """As a template writes the columns, the nearest first."""
    spelled: dict[str, str] = {}
    for column in names:
        spelled.setdefault(identifier(column), column)
    near = [*dict.fromkeys((*_of_words(name, spelled), *_alike(name, list(spelled))))][:NEAR_SHOWN]
    others = [written for written in map(identifier, names) if written not in near]
    meant = ""
    if near:
        meant = f"; did you mean {' or '.join(map(_variable(spelled), near))}?"
        others_said = f" The other columns are: {_listed(others)}" if others else ""
    else:
        meant, others_said = ".", f" The columns are: {_listed(others)}"
    odd = [written for written in spelled if written != spelled[written]]
    if odd and not set(odd) & set(near):
        others_said += f" (as templates write them: {odd[0]} is the column {spelled[odd[0]]!r})"
    return UsageError(
        f"{user} uses the column {name!r}, which the input does not have{meant}{others_said}"
        f"{_undivided(names)}"
    )


def _variable(spelled: Mapping[str, str]) -> Callable[[str], str]:
    return lambda name: name if spelled[name] == name else f"{{{{ {name} }}}}"


def _of_words(name: str, spelled: Mapping[str, str]) -> list[str]:
    """Columns of several words of which the name is one: ``{{ Artikel-Nr }}`` reads as two."""
    wanted = name.casefold()
    return [
        written
        for written, column in spelled.items()
        if written != column and wanted in _WORDS.split(column.casefold())
    ]


def _alike(name: str, names: list[str]) -> list[str]:
    """The names that are spelled alike, in whatever case."""
    folded: dict[str, str] = {}
    for one in names:
        folded.setdefault(one.casefold(), one)
    found = difflib.get_close_matches(name.casefold(), folded, n=NEAR_SHOWN)
    return [folded[one] for one in found]


def _undivided(names: list[str]) -> str:
    """A hint where the one name looks like several."""
    found = next((c for c in ";\t|" if len(names) == 1 and c in names[0]), None)
    if found is None:
        return ""
    what = {"\t": "tabs"}.get(found, repr(found))
    return (
        f" (one column: {what} seem to stand between them, but not in the rows; --delimiter says "
        "what does)"
    )


def _missing_key(user: str, path: Dotted, value: object, keys: Iterable[str]) -> UsageError:
    names = list(keys)
    if not names:
        return UsageError(
            f"{user} uses {'.'.join(path)}, which needs an object in that place, "
            f"and the input has {_TYPES.get(type(value), 'something else')}"
        )
    return UsageError(
        f"{user} uses {'.'.join(path)}, which no row has{_nearest(path[-1], names)} "
        f"The keys are: {_listed(names)}"
    )


def _nearest(name: str, names: list[str]) -> str:
    found = _alike(name, names)
    return f"; did you mean {found[0]}?" if found else "."


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return (", ".join(names[:NAMES_SHOWN]) or "none") + more
