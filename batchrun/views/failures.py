"""Failed rows and flawed answers in words: the same on the display, in plain lines, in ``batchrun
status`` and in a run's last words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrun.core.request import remedies
from batchrun.core.text.wording import shortened, verb
from batchrun.views.text import percent, safe

CLASSES_SHOWN = 5
SAID_SHOWN = 300
MOST = 0.5
"""From this share of the answers on, a run's verdict says that they are cut off, or empty."""
FLAWS: Mapping[str, str] = {
    "truncated": (
        "allow longer ones: --max-tokens N --keep-done --retry-class truncated "
        "(see --on-truncation)"
    ),
    "empty": "--retry-class empty asks again (see --on-empty)",
}
"""What may be wrong with an answer that is kept, and what to do."""
FINISH_REASONS: Mapping[str, str] = {"truncated": ", finish_reason length"}


def class_counts(errors: Mapping[str, int]) -> str:
    """Failed rows by class, the class with most rows first: ``timeout 12, not_found 3``."""
    return ", ".join(f"{safe(name)} {errors[name]:,}" for name in _ordered(errors))


def example_lines(examples: Mapping[str, Any], errors: Mapping[str, int]) -> list[str]:
    """An example of each of the classes with most rows: class, row, and what was said."""
    out = []
    for name in _ordered(errors)[:CLASSES_SHOWN]:
        found = examples.get(name)
        if isinstance(found, Mapping) and isinstance(found.get("row"), int):
            said = shortened(safe(str(found.get("message") or "")), SAID_SHOWN)
            out.append(f"{safe(name)}, row {found['row']:,}: {said}".rstrip(": "))
    return out


def advice(errors: Mapping[str, int]) -> list[tuple[str, str]]:
    """What to do about failed rows: the classes with most rows of which something is known, and
    the remedy.
    """
    names = _ordered(errors)[:CLASSES_SHOWN]
    return [(name, remedies.ADVICE[name]) for name in names if name in remedies.ADVICE]


def failure_lines(errors: Mapping[str, int], examples: Mapping[str, Any]) -> list[str]:
    """Failures by class with an example each, and what to do about them; none without any."""
    if not errors:
        return []
    out = [f"failed by class: {class_counts(errors)}"]
    out += [f"  {line}" for line in example_lines(examples, errors)]
    if known := advice(errors):
        out += ["what to do:", *(f"  {name}: {text}" for name, text in known)]
    return out


def flaw_lines(outputs: Mapping[str, int], answers: int) -> list[str]:
    """A line for each flaw that answers have, with their share of ``answers`` and what to do."""
    return [
        f"of the ok rows, {rows:,} {flaw}{_share(flaw, rows, answers)}: {FLAWS[flaw]}"
        for flaw, rows in outputs.items()
        if rows and flaw in FLAWS
    ]


def flaw_pieces(outputs: Mapping[str, int], answers: int) -> list[str]:
    """The same in short pieces: ``truncated 20 of 30 answers (66%)``."""
    noun = verb(answers, "answer", "answers")
    return [
        f"{flaw} {rows:,} of {answers:,} {noun} ({percent(rows, answers)})"
        for flaw, rows in outputs.items()
        if rows and flaw in FLAWS
    ]


def mostly(outputs: Mapping[str, int], answers: int) -> str | None:
    """The flaw that most of the answers have, None where most have none."""
    found = [flaw for flaw in FLAWS if outputs.get(flaw, 0) > MOST * max(answers, 1)]
    return found[0] if found else None


def _share(flaw: str, rows: int, answers: int) -> str:
    reason = FINISH_REASONS.get(flaw, "")
    return f" ({percent(rows, answers)}{reason})" if answers else ""


def _ordered(errors: Mapping[str, int]) -> list[str]:
    return sorted(errors, key=lambda name: (-errors[name], name))
