"""JSON in a Markdown fence: ``--accept-fenced`` takes it for the answer.

Fences are those of CommonMark (three or more backticks or tildes, a word such as ``json`` behind
them, open until the end of the text if nothing closes them), and what models make of them: opened
at the end of a line of text, all on one line, or closed at the end of a line of JSON, which cannot
end in backticks by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from batchrun.core.reply.answer import BLANK

_FENCE = r"(`{3,}|~{3,})[ \t]*([\w.+#-]*)"
_OPENING = re.compile(rf"[ \t]*{_FENCE}(.*)")
_BEHIND_TEXT = re.compile(rf"[^`~]*{_FENCE}([ \t\r]*)$")


def fenced(text: str, is_json: Callable[[str], bool]) -> str | None:
    """The JSON in the only fence that holds any. None where no fence does, or several do."""
    if "```" not in text and "~~~" not in text:
        return None
    found = [inside for inside in map(_stripped, _blocks(text)) if inside and is_json(inside)]
    return found[0] if len(found) == 1 else None


def _stripped(text: str) -> str:
    return text.strip(BLANK)


def _blocks(text: str) -> Iterator[str]:
    """What is in each fence."""
    fence, lines = "", [""]
    for line in text.split("\n"):
        if not fence:
            opening = _OPENING.match(line) or _BEHIND_TEXT.match(line)
            if opening is None:
                continue
            fence, word, rest = opening.groups()
            # One line, such as ```true```: then it is no word that says what is in the fence.
            lines = [rest if rest.strip(BLANK + fence[0]) else word + rest]
            if not rest.strip(BLANK):
                lines = [""]
                continue
        else:
            lines.append(line)
        end = lines[-1].rstrip()
        if end.endswith(fence):
            lines[-1] = end.rstrip(fence[0])
            yield "\n".join(lines)
            fence = ""
    if fence:
        yield "\n".join(lines)
