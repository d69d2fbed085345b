"""Numbers of bytes as people write and read them: ``500MB``, ``2 GiB``."""

from __future__ import annotations

import re

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("KMGT", 1)
    for ending, base in (("", 1024), ("B", 1000), ("IB", 1024))
}
_SIZE = re.compile(r"(\d{1,15})(?:\.(\d{1,9}))?\s*([A-Za-z]{0,3})", re.ASCII)


class Bytes(int):
    """A number of bytes that shows itself as people write it."""

    __slots__ = ()

    def __str__(self) -> str:
        return format_bytes(self)


def parse_bytes(text: str) -> Bytes | None:
    """A size with or without a unit; None for what is none.

    ``MB`` is a million bytes, ``MiB`` and ``M`` are 1,048,576; case does not distinguish.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or found[3].upper() not in _UNITS:
        return None
    whole, part, unit = int(found[1]), found[2] or "", _UNITS[found[3].upper()]
    return Bytes(whole * unit + int(part or "0") * unit // 10 ** len(part))


def format_bytes(count: int) -> str:
    """In the largest binary unit that leaves at least 1, with one digit behind the point."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1023.95:
            return f"{size:.0f} {unit}" if size == int(size) else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.0f} TiB" if size == int(size) else f"{size:,.1f} TiB"
