"""Which scripts a text is written in, by its UTF-8 bytes: what a guess at its tokens rests on.

The first byte of a UTF-8 character tells the script, nearly: so counting is a few passes of C over
the bytes, about a second for 100 MB of English.
"""

from __future__ import annotations

CLASSES = (
    "letters",
    "space",
    "digits",
    "signs",
    "accented",
    "greek",
    "cyrillic",
    "hebrew",
    "arabic",
    "devanagari",
    "indic",
    "thai",
    "hangul",
    "kana",
    "han",
    "typographic",
    "other",
)
"""``letters``, ``space``, ``digits``, ``signs`` are ASCII; ``accented`` are Latin letters beyond
it; ``typographic`` are dashes, quotes, arrows and full-width forms; ``other`` is every other
script, and emoji."""

_LETTERS = bytes(range(65, 91)) + bytes(range(97, 123))
_SPACE = b" \t\n\r\x0b\x0c"
_DIGITS = b"0123456789"
_ASCII = bytes(range(128))
_FOLLOWING = bytes(range(0x80, 0xC0))
_NOT_FIRST = _ASCII + _FOLLOWING

# Characters of two bytes by their first one; then those of three that need no second one.
_TWO = {
    "accented": bytes(range(0xC2, 0xCB)),
    "greek": b"\xcd\xce\xcf",
    "cyrillic": bytes(range(0xD0, 0xD4)),
    "hebrew": b"\xd6\xd7",
    "arabic": bytes(range(0xD8, 0xDE)),
}
_THREE = {
    "typographic": b"\xe2\xef",
    "kana": b"\xe3",
    "han": bytes(range(0xE4, 0xEA)),
    "hangul": bytes(range(0xEA, 0xEE)),
}
_DEVANAGARI = (b"\xe0\xa4", b"\xe0\xa5")
_THAI = (b"\xe0\xb8", b"\xe0\xb9")


def byte_counts(text: str) -> tuple[int, ...]:
    """The bytes of a text by the ``CLASSES``; they add up to its length in UTF-8."""
    data = text.encode("utf-8", "replace")
    size = len(data)
    letters = size - len(data.translate(None, _LETTERS))
    space = size - len(data.translate(None, _SPACE))
    digits = size - len(data.translate(None, _DIGITS))
    if text.isascii():
        return (letters, space, digits, size - letters - space - digits, *_NO_MORE)
    beyond = len(data.translate(None, _ASCII))
    found = dict.fromkeys(CLASSES, 0)
    found.update(letters=letters, space=space, digits=digits)
    found["signs"] = size - beyond - letters - space - digits
    first = data.translate(None, _NOT_FIRST)
    for bytes_each, kinds in ((2, _TWO), (3, _THREE)):
        for name, leads in kinds.items():
            found[name] = bytes_each * (len(first) - len(first.translate(None, leads)))
    three = 3 * first.count(0xE0)
    if three:
        found["devanagari"] = 3 * sum(map(data.count, _DEVANAGARI))
        found["thai"] = 3 * sum(map(data.count, _THAI))
        found["indic"] = three - found["devanagari"] - found["thai"]
    found["other"] = size - sum(found.values())
    return tuple(found.values())


_NO_MORE = (0,) * (len(CLASSES) - 4)
