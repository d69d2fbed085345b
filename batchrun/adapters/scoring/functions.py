r"""The scoring functions that batchrun adds to SQL, as macros over DuckDB's own functions.

DuckDB lacks Unicode's NFKC and counting tokens; Arrow and Python do these, as functions over whole
columns. Every regular expression here is RE2's, whose time is linear.

Texts are normalised before they are compared: NFKC, lower case, every run of white space becomes
one space, white space around the text and final sentence ends (``. ! ? 。``) are removed. NFKC has
turned full-width marks into these by then.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_SPACES = r"[\s\x0b\x1c-\x1f\x{85}\x{2028}\x{2029}]+"
_ENDS = r"[\s.!?。]+$"
_NO_SPACES = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
"""Scripts without spaces between words: every character is a token."""

# A number. Thousands are separated by a comma, or LaTeX's form of one.
_CURRENCY = r"[$€£¥₹]"
_GROUPED = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?:[^\d]|$)"
_PLAIN = r"(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?"
_NUMBER = rf"[-+]?{_CURRENCY}?[-+]?(?:{_GROUPED}|{_PLAIN})"
_SIGNED = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?"
_DIGITS = ("０１２３４５６７８９．，－＋％＄−‐‑", "0123456789.,-+%$---")
_NO_SIGN = r"([\p{N}_)\]]|(?:^|\D)\p{L}|\d[a-df-zA-DF-Z])[-+]"
"""A hyphen after a letter, a digit or a bracket joins or subtracts; that of ``1e-5`` is a sign."""

# The letter that was chosen.
_LATEX = r"\\(?:boxed|fbox|text|textbf|textit|mathbf|mathrm|mathsf|rm|bf)\b\s*"
_WRAP = r"[\s*_\"'`$#<>(\[{（【「『“‘~]"
_SEPARATOR = r"(?:[:：=]|(?i:\bis\b|\bwould\s+be\b|\bshould\s+be\b)|应该是|应为|是|为|選|选)"
_WORDS = r"(?i:option|choice|letter)\b"
_BEHIND_UPPER = r"(?:[^\p{L}\p{N}_]|_|$)"
_BEHIND_LOWER = r"(?:\s*$|\s*\n|\s*[.,;:!?)\]}*_\"'`$。，；：！？）】」』”’<~])"
_LETTER = rf"(?:([A-Z]){_BEHIND_UPPER}|([a-z]){_BEHIND_LOWER})"
_ANSWER = (
    rf"(?:(?:(?i:\banswers?)\b|答案|答え)(?:{_WRAP}|{_WORDS})*{_SEPARATOR}"
    rf"(?:{_SEPARATOR}|{_WRAP}|{_WORDS}|{_LATEX})*"
    rf"|\\boxed\b\s*(?:{_WRAP}|{_LATEX})*)"
)
_ALONE = rf"^(?:{_WRAP}|{_LATEX})*([A-Za-z])[\s*_\"'`$>)\]}}.,:;!）】」』”’。．，：；~]*$"
_LETTER_SEPARATED = r"^(?s:.*)[^A-Za-z]([A-Za-z])[^A-Za-z]*$"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _text(argument: str) -> str:
    return f"CAST({argument} AS VARCHAR)"


def _normal(text: str) -> str:
    wide = f"CASE WHEN strlen({text}) = length({text}) THEN {text} ELSE __nfkc({text}) END"
    spaced = f"trim(regexp_replace(lower({wide}), {_quoted(_SPACES)}, ' ', 'g'))"
    return f"regexp_replace({spaced}, {_quoted(_ENDS)}, '')"


_NOT_GROUPS = r"\\.|\[\^?\]?(?:[^\]\\]|\\.)*\]"
"""Escapes and character sets of a pattern, in which a parenthesis does not open a group."""
_OPENS_GROUP = r"\((?:[^?]|\?P?<[^=!]|$)"
_HAS_GROUP = (
    f"regexp_matches(regexp_replace(p, {_quoted(_NOT_GROUPS)}, '', 'g'), {_quoted(_OPENS_GROUP)})"
)

MACROS: tuple[tuple[str, str], ...] = (
    ("__normal(s)", _normal(_text("s"))),
    ("exact(a, b)", "__normal(a) = __normal(b)"),
    ("contains_text(a, b)", "contains(__normal(a), __normal(b))"),
    ("__grouped(p)", f"CASE WHEN {_HAS_GROUP} THEN p ELSE '(' || p || ')' END"),
    (
        "last_match(s, regex)",
        f"list_extract(regexp_extract_all({_text('s')}, __grouped(regex), 1), -1)",
    ),
    (
        "__plain_number(s)",
        (
            "regexp_replace(regexp_replace(regexp_replace(translate("
            f"{_text('s')}, {_quoted(_DIGITS[0])}, {_quoted(_DIGITS[1])}), "
            rf"'\{{,\}}|\\,|(\d)[\x{{a0}}\x{{202f}}\x{{2009}}](\d\d\d)', '\1,\2', 'g'), "
            rf"'(\d),,(\d)', '\1,\2', 'g'), {_quoted(_NO_SIGN)}, '\1 ', 'g')"
        ),
    ),
    (
        "__last_number(s)",
        f"list_extract(regexp_extract_all(__plain_number(s), {_quoted(_NUMBER)}), -1)",
    ),
    ("__finite(x)", "CASE WHEN isfinite(x) THEN x END"),
    (
        "num(s)",
        (
            "__finite(TRY_CAST(regexp_extract(regexp_replace(__last_number(s), "
            rf"'[,$€£¥₹]', '', 'g'), {_quoted(_SIGNED)}) AS DOUBLE))"
        ),
    ),
    (
        "__close(a, b, rel)",
        (
            "CASE WHEN a = b THEN NOT isnan(a) WHEN isfinite(a) AND isfinite(b) THEN "
            "abs(a - b) <= rel * greatest(abs(a), abs(b)) ELSE a + b + rel IS NULL AND NULL END"
        ),
    ),
    ("close(a, b, rel)", "__close(TRY_CAST(a AS DOUBLE), TRY_CAST(b AS DOUBLE), rel)"),
    (
        "__chosen(s)",
        f"list_extract(regexp_extract_all(s, {_quoted(_ANSWER + _LETTER)}), -1)",
    ),
    (
        "letter(s)",
        (
            f"upper(nullif(CASE WHEN __chosen({_text('s')}) IS NULL "
            f"THEN regexp_extract({_text('s')}, {_quoted(_ALONE)}, 1) "
            f"ELSE regexp_extract(__chosen({_text('s')}), {_quoted(_LETTER_SEPARATED)}, 1) "
            "END, ''))"
        ),
    ),
    ("f1(a, b)", "__f1(__normal(a), __normal(b))"),
    # Over the repeats of a row. The share of the samples of k out of n answers, c of which pass,
    # that hold none that fails: the product of (c - j) / (n - j), which is C(c, k) / C(n, k).
    (
        "__all_of(n, c, k)",
        (
            "CASE WHEN n >= k THEN list_aggregate([greatest(0.0, c - j) / (n - j) "
            "FOR j IN range(k)], 'product') END"
        ),
    ),
    ("__passes(score)", "count(*) FILTER (CAST(score AS DOUBLE) = 1)"),
    ("pass_at(score, k)", "1 - __all_of(count(score), count(score) - __passes(score), k)"),
    ("pass_all(score, k)", "__all_of(count(score), __passes(score), k)"),
    # A vote, with values compared as `exact` does.
    (
        "__vote(x, other)",
        (
            "CASE WHEN typeof(x) = 'VARCHAR' AND typeof(other) = 'VARCHAR' THEN __normal(x) "
            "WHEN typeof(x) = 'BOOLEAN' OR typeof(other) = 'BOOLEAN' "
            f"THEN coalesce({_text('TRY_CAST(' + _text('x') + ' AS BOOLEAN)')}, __normal(x)) "
            f"ELSE coalesce({_text('TRY_CAST(' + _text('x') + ' AS DOUBLE)')}, __normal(x)) END"
        ),
    ),
    ("__others(votes, elect)", "[x.value FOR x IN map_entries(votes) IF x.key <> elect]"),
    ("__most(votes, elect)", "coalesce(list_max(__others(votes, elect)), 0)"),
    # `others` more votes are for the strongest other value, `more` for the expected one.
    (
        "__elected(votes, elect, others, more)",
        (
            "CASE WHEN elect IS NULL THEN NULL "
            "WHEN coalesce(votes[elect], 0) + more > __most(votes, elect) + others THEN 1.0 "
            "WHEN coalesce(votes[elect], 0) + more < __most(votes, elect) + others THEN 0.0 "
            "WHEN coalesce(votes[elect], 0) + more = 0 THEN 0.0 "
            "WHEN others > 0 THEN 0.5 "
            "ELSE 1.0 / (1 + len([v FOR v IN __others(votes, elect) "
            "IF v = __most(votes, elect)])) END"
        ),
    ),
    (
        "majority(expr, expected)",
        ("__elected(histogram(__vote(expr, expected)), any_value(__vote(expected, expr)), 0, 0)"),
    ),
)
"""Each macro with its parameters and its definition."""

PUBLIC = ("exact", "contains_text", "last_match", "num", "close", "letter", "f1")
"""The macros for users that return a value per row. Those in ``parser.OF_REPEATS`` are aggregates
over rows, also for users; all others are parts of these.
"""


def install(connection: Any) -> None:
    """Add the functions to a connection of DuckDB that is not locked yet."""
    connection.create_function("__nfkc", _nfkc, ["VARCHAR"], "VARCHAR", type="arrow")
    connection.create_function("__f1", _f1, ["VARCHAR", "VARCHAR"], "DOUBLE", type="arrow")
    for head, body in MACROS:
        connection.execute(f"CREATE MACRO {head} AS {body}")


def _nfkc(texts: Any) -> Any:
    return pc.utf8_normalize(texts, form="NFKC")


def _f1(left: Any, right: Any) -> Any:
    """Token F1 of pairs of normalised texts: 1 if neither has a token, else the harmonic mean of
    precision and recall, with a token counted as often as both have it.
    """
    spaced = [pc.replace_substring_regex(side, _NO_SPACES, r" \1 ") for side in (left, right)]
    found: list[float | None] = []
    for one, other in zip(*(side.to_pylist() for side in spaced), strict=True):
        if one is None or other is None:
            found.append(None)
            continue
        a, b = Counter(one.split()), Counter(other.split())
        sizes = a.total() + b.total()
        found.append(1.0 if sizes == 0 else 2 * (a & b).total() / sizes)
    return pa.array(found, pa.float64())
