"""Which words of two texts differ, in one line of a bounded size."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

from batchrun.core.text.text_difference import common_length

CONTEXT_WORDS = 8
"""Words that are shown of what both texts have in common, on either side of a difference."""
COMPARED_WORDS = 300
"""Words of either text that are compared: comparing takes the square of their number."""
COMPARED_CHARS = 20_000
GAP = "..."

_WORD = re.compile(r"\S+")


def word_diff(before: str, now: str) -> str:
    """Both texts in one line: ``[-words-]`` were there before, ``{+words+}`` are there now. What
    both have in common is cut to a few words around the differences; ``...`` is what is left out.
    """
    start = max(0, common_length(before, now) - COMPARED_CHARS // 4)
    old, new = (_words(text, start) for text in (before, now))
    head = GAP if start else ""
    tail = GAP if max(len(before), len(now)) > start + COMPARED_CHARS else ""
    if len(old) > COMPARED_WORDS or len(new) > COMPARED_WORDS:
        skipped = max(0, _alike(old, new) - CONTEXT_WORDS)
        head, tail = (GAP if skipped else head), GAP
        old, new = (words[skipped : skipped + COMPARED_WORDS] for words in (old, new))
    return " ".join(filter(None, [head, *_marked(old, new), tail]))


def _words(text: str, start: int) -> list[str]:
    return _WORD.findall(text[start : start + COMPARED_CHARS])


def _alike(old: Sequence[str], new: Sequence[str]) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b),
        min(len(old), len(new)),
    )


def _marked(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    steps = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    if len(steps) == 1 and steps[0][0] == "equal":
        # They differ in white space alone, or not at all.
        yield from old[:CONTEXT_WORDS]
        yield from [GAP] if len(old) > CONTEXT_WORDS else []
        return
    for number, (kind, a0, a1, b0, b1) in enumerate(steps):
        if kind == "equal":
            yield from _shortened(old[a0:a1], first=number == 0, last=number == len(steps) - 1)
            continue
        if a1 > a0:
            yield f"[-{' '.join(old[a0:a1])}-]"
        if b1 > b0:
            yield f"{{+{' '.join(new[b0:b1])}+}}"


def _shortened(words: Sequence[str], *, first: bool, last: bool) -> Iterator[str]:
    """Words that both have: those next to a difference."""
    before = 0 if first else CONTEXT_WORDS
    behind = 0 if last else CONTEXT_WORDS
    if len(words) <= before + behind + 1:
        yield from words
        return
    yield from words[:before]
    yield GAP
    yield from words[len(words) - behind :]
