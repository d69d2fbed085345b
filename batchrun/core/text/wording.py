"""Counts and short texts as people read them: ``1 row``, ``2 rows``."""

from __future__ import annotations

_CUT = " ..."


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: ``1 row``, ``2,000 rows``. ``many`` is a plural other than with s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def verb(number: int, one: str, many: str) -> str:
    """The verb form that goes with a number: ``1 row has``, ``2 rows have``."""
    return one if number == 1 else many


def shortened(text: str, most: int) -> str:
    """A text on one line of at most ``most`` characters. One that is longer is cut between words,
    or within one where there is no space near the end, and ends with dots.
    """
    line = " ".join(text[: most * 20].split())
    if len(line) <= most:
        return line
    end = line.rfind(" ", most // 2, most - len(_CUT) + 1)
    return line[: end if end > 0 else most - len(_CUT)] + _CUT
