"""What is probably meant by a key or a table of the config file that is not known there."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from batchrun.core.settings.parameters import SENT
from batchrun.core.settings.table import SECTIONS, SHORT, TABLE

SURE_RATIO = 0.8
"""A key of the table that is spelled so much alike is meant, whatever other tables have."""


def table_meant(name: str) -> str:
    """What to say of a table, or of a key outside of every table, that is not known."""
    return _elsewhere(name) or _nearest(name, SECTIONS)


def key_meant(section: str, key: str, known: Sequence[str]) -> str:
    """What to say of a key that its table does not have; ``known`` are those of the table."""
    if section == "request" and key in SENT:
        short = next((f", or {setting.flag}" for setting in SHORT if setting.key == key), "")
        return f": it is a request parameter; write it under `params`{short}"
    if difflib.get_close_matches(key, known, n=1, cutoff=SURE_RATIO):
        return _nearest(key, known)
    return _elsewhere(key) or _nearest(key, known)


def _elsewhere(key: str) -> str | None:
    """Where a key belongs, if it is that of another table or a parameter of requests."""
    sections = _sections_of(key)
    if sections:
        tables = " or ".join(f"[{s}]" if s != "endpoint" else "[[endpoint]]" for s in sections)
        return f"; write `{key}` below {tables}"
    if key in SENT and key not in ("messages", "model", "stream"):
        return f"; a parameter of requests belongs in [request]: params = {{ {key} = ... }}"
    return None


def _sections_of(key: str) -> list[str]:
    return [setting.section for setting in TABLE if setting.key == key]


def _nearest(word: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]}?" if found else f"; known are {', '.join(known)}"
