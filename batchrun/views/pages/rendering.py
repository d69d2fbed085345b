"""From values to a page that is safe to open, whatever rows and servers said.

Every text is escaped by the template, data for scripts is JSON with ``<`` escaped, and a
Content-Security-Policy lets nothing run but the scripts and styles whose hashes it names. The page
asks the network for nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from batchrun.views.text import safe

_ESCAPES = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}
_ASSETS = "assets"
_FLAG = re.compile(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*")
_GROWTH = 6
"""A letter takes at most so many bytes on the page: ``'`` becomes ``&#x27;``."""


def asset(name: str) -> str:
    """A file that lies beside this module: a template, a style sheet, a script."""
    found = resources.files(__package__).joinpath(_ASSETS, *name.split("/"))
    return found.read_text("utf-8").rstrip("\n")


def render(
    template: str,
    values: Mapping[str, Any],
    *,
    styles: Sequence[str],
    scripts: Sequence[str],
    data: Any = None,
    connects: bool = False,
) -> str:
    """A page by a template, with styles and scripts by the names of their files. ``data`` is for
    the scripts; ``connects`` lets them ask the server that the page came from.
    """  # fmt: skip
    from minijinja import Environment
    from minijinja import safe as trusted

    css = [asset(name) for name in styles]
    code = [asset(name) for name in scripts]
    filters = {"unbroken": _unbroken}
    environment = Environment(loader=asset, filters=filters, trim_blocks=True, lstrip_blocks=True)
    return environment.render_template(
        template,
        **values,
        csp=policy(css, code, connects=connects),
        styles=[trusted(text) for text in css],
        scripts=[trusted(text) for text in code],
        data=None if data is None else trusted(json_block(data)),
    )


def _unbroken(text: str) -> Any:
    """A text, escaped, whose flags stay on one line: browsers break them at hyphens."""
    from minijinja import escape
    from minijinja import safe as trusted

    return trusted(_FLAG.sub(r'<span class="flag">\g<0></span>', str(escape(text))))


def policy(styles: Sequence[str], scripts: Sequence[str], *, connects: bool = False) -> str:
    """A Content-Security-Policy under which only these inline styles and scripts have an effect."""

    def hashes(texts: Sequence[str]) -> str:
        named = " ".join(f"'sha256-{_digest(text)}'" for text in texts)
        return named or "'none'"

    parts = [
        "default-src 'none'",
        f"style-src {hashes(styles)}",
        f"script-src {hashes(scripts)}",
        *(["connect-src 'self'"] if connects else []),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join(parts)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def json_block(value: Any) -> str:
    """A value as JSON that can stand inside of ``<script type="application/json">``."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


def fitted(text: str, bytes_max: int, *, chars: int | None = None) -> str:
    """A text as it may stand on a page: control characters and marks that turn the direction of
    what follows are replaced, and it is cut to ``bytes_max`` bytes of the page. ``chars`` is its
    length, where ``text`` is only its beginning; a text that is cut says how long it is.
    """
    whole = len(text) if chars is None else chars
    shown = safe(text[: bytes_max + 1])
    if len(shown) * _GROWTH > bytes_max:
        shown = _cut(shown, bytes_max)
    if len(shown) < whole:
        return f"{shown}\N{HORIZONTAL ELLIPSIS} ({whole:,} characters)"
    return shown


def _cut(text: str, bytes_max: int) -> str:
    """The longest beginning of a text that takes no more bytes on a page."""
    from minijinja import escape

    left, end = bytes_max, 0
    for end, letter in enumerate(text):
        left -= len(str(escape(letter)).encode())
        if left < 0:
            return text[:end]
    return text
