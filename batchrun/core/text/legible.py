r"""Names of files that are no UTF-8, as text that can be printed, written as JSON and stored.

Python holds each byte of such a name that is no UTF-8 as half of a surrogate pair (PEP 383). A path
keeps them: it opens the file. What is shown or written down goes through here, and has an escape
such as ``\xe9`` in its place.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

_HALVES = re.compile("[\ud800-\udfff]")


def legible(text: str) -> str:
    """Text with an escape for every half of a surrogate pair; other text as it is."""
    return _HALVES.sub(_escape, text)


def shell_word(text: str) -> str:
    """Text as one word of a shell's command line (bash, zsh), whatever bytes are in it."""
    shown = legible(text.replace("\\", "\\\\").replace("'", "\\'"))
    return f"$'{shown}'" if _HALVES.search(text) else shlex.quote(text)


def json_of(value: Any, indent: int | None = None, *, ascii_only: bool = False) -> str:
    """A value as JSON that every reader takes: its text is that of ``legible``."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # Such halves are inside of strings, where a backslash is written as two.
    text = _HALVES.sub(lambda found: "\\" + _escape(found), text)
    return text if not ascii_only else json.dumps(json.loads(text), indent=indent)


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"
