"""Where two texts begin to differ, in two lines that fit a terminal."""

from __future__ import annotations

CONTEXT = 24
"""Characters that are shown of what both texts have in common, before the difference."""
ROOM = 60
"""Characters that are shown of each text: two lines of it fit into 80 columns with their labels."""


def texts_apart(before: str, now: str) -> tuple[str, str]:
    """Both texts from a little before their first difference on, quoted. Control characters and
    others that cannot be seen are escaped; what is cut off is marked by three dots.
    """
    start = _start(_common(before, now))
    return _excerpt(before, start), _excerpt(now, start)


def escaped(text: str) -> str:
    """Text as JSON and Python write it in quotes, every character of it visible."""
    return "".join(map(_visible, text))


def place_of(before: str, now: str) -> str:
    """Where the difference begins, in words: the line too where there are several."""
    common = _common(before, now)
    if "\n" not in before and "\n" not in now:
        return f"character {len(common) + 1:,}"
    line, column = common.count("\n") + 1, len(common) - (common.rfind("\n") + 1) + 1
    return f"line {line:,}, character {column:,}"


def common_length(before: str, now: str) -> int:
    """The number of characters that both begin with, by halving: texts may have millions."""
    low, high = 0, min(len(before), len(now))
    while low < high:
        middle = (low + high + 1) // 2
        if before[low:middle] == now[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _common(before: str, now: str) -> str:
    """What both texts begin with."""
    return before[: common_length(before, now)]


def _start(common: str) -> int:
    """Where the excerpt begins: at a word, if there is one within the context."""
    start, room = len(common), CONTEXT
    while start and (room := room - len(_visible(common[start - 1]))) >= 0:
        start -= 1
    if not start:
        return 0
    space = next((n for n in range(start, len(common)) if common[n].isspace()), None)
    return start if space is None or space + 1 >= len(common) else space + 1


def _excerpt(text: str, start: int) -> str:
    shown, size = [], 0
    for character in text[start : start + ROOM]:
        visible = _visible(character)
        size += len(visible)
        if size > ROOM:
            break
        shown.append(visible)
    head = "..." if start else ""
    tail = "..." if start + len(shown) < len(text) else ""
    return f'{head}"{"".join(shown)}"{tail}'


_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def _visible(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
