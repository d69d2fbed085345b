"""``~`` at the beginning of a path is the home directory, in every setting that is a path.

Shells expand it at the beginning of a word, but not in a config file, in quotes or after
``--output=``.
"""

from __future__ import annotations

import os
import pwd
from pathlib import PurePath

from batchrun.core.settings.resolve import Raw
from batchrun.core.settings.table import BY_NAME
from batchrun.errors import UsageError

PATHS = ("path", "paths", "dirs", "schema")
"""The kinds of settings that are paths."""


def at_home(path: str, folder: str | PurePath = "") -> str:
    """A path with ``~`` and ``~user`` replaced; any other path as it is.

    Earlier versions treated ``~`` as the name of a folder, below ``folder`` (the config file's;
    empty: the working directory). If that folder exists, ``UsageError`` is raised, as it is for an
    unknown home.
    """
    if not path.startswith("~"):
        return path
    user, _, rest = path[1:].partition("/")
    home = _home_of(user, path)
    found = f"{home.rstrip('/')}/{rest.lstrip('/')}" if rest.strip("/") else home
    literal = PurePath(folder, path)
    if os.path.lexists(literal):
        message = (
            f"{path} means {found} now, and there is also {_here(literal)}, where an earlier "
            f"version put it. Move that one, or name the one you mean: {found} or {_here(literal)}"
        )
        raise UsageError(message)
    return found


def located(raw: Raw, folder: str | PurePath = "") -> Raw:
    """Raw values with ``at_home`` applied to every path."""
    found = {name: _located(name, value, folder) for name, value in raw.items()}
    if isinstance(tables := raw.get("endpoints"), list):
        found["endpoints"] = [located(table, folder) for table in tables]
    return found


def _located(name: str, value: object, folder: str | PurePath) -> object:
    setting = BY_NAME.get(name)
    if setting is None or setting.kind not in PATHS:
        return value
    if isinstance(value, list):
        return [at_home(item, folder) if isinstance(item, str) else item for item in value]
    return at_home(value, folder) if isinstance(value, str) else value


def _home_of(user: str, path: str) -> str:
    if not user:
        home = os.environ.get("HOME")
        if not home:
            message = f"{path}: HOME is not set, so ~ has no meaning; write the path in full"
            raise UsageError(message)
        return home
    try:
        return pwd.getpwnam(user).pw_dir
    except (KeyError, ValueError):
        message = f"{path}: there is no user {user!r}; for a file of that name write ./{path}"
        raise UsageError(message) from None


def _here(path: PurePath) -> str:
    """A relative path that no longer begins with ``~``."""
    return str(path) if path.is_absolute() else f"./{path}"
