"""Which settings are templates, told by their text alone: compiling them takes a library that is
not loaded for ``--help``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SERVERS_OWN = frozenset({"chat_template"})
"""Parameters that hold a template of the server's: they are sent as they are."""

_SYNTAX = re.compile(r"\{[{%]")


def is_template(value: object) -> bool:
    """Whether a value from the settings holds template syntax, at any depth."""
    if isinstance(value, str):
        return _SYNTAX.search(value) is not None
    if isinstance(value, Mapping):
        return any(is_template(item) for item in value.values())
    if isinstance(value, list):
        return any(is_template(item) for item in value)
    return False
