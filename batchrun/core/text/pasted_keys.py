"""What people paste around a key, or in its place. No key is repeated in what is said of it."""

from __future__ import annotations

import re

_QUOTES = "'\"`\u2018\u2019\u201c\u201d"
_PLACEHOLDER = (
    r"<.*>|\.\.\.|(?i:your[-_ ].*key.*|.*(?:api|your)[-_ ]?key[-_ ]?here.*|sk-x+|sk-\.+|x{4,}|"
    r"changeme|replace[-_ ]?me|insert[-_ ].*)"
)


def key_flaw(key: str) -> str | None:
    """What is certainly wrong with a key that is sent as ``Authorization: Bearer KEY``, as a clause
    that says what to do; None if nothing is. The key is not repeated.
    """
    if len(key) > 1 and key[0] in _QUOTES and key[-1] in _QUOTES:
        return "is in quotation marks: give the key alone, without them"
    if re.match(r"bearer\s", key, re.IGNORECASE):
        return "begins with `Bearer`: give the key alone, batchrun adds that word"
    if re.match(r"(?:export\s+)?[A-Z0-9_]*(?:KEY|TOKEN|SECRET)[A-Z0-9_]*=[^=]", key):
        return "begins with the name of a variable and `=`: give the key alone"
    if re.match(r"authorization\s*:", key, re.IGNORECASE):
        return "is a whole header: give the key alone, without `Authorization: Bearer`"
    return None


def key_doubt(key: str) -> str | None:
    """What may be wrong with a key that the server refused, as ``key_flaw``."""
    if key[:1] in _QUOTES or key[-1:] in _QUOTES:
        return "has a quotation mark at one end"
    if re.fullmatch(_PLACEHOLDER, key):
        return "looks like a placeholder: put your own key in its place"
    if key.startswith("$"):
        return "begins with `$`: the name of a variable was not replaced by its value"
    if re.search(r"\s", key):
        return "has white space inside: copy it again"
    return None
