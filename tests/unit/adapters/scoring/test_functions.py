"""The scoring functions: what models write, and what is taken out of it."""

import math
import time

import duckdb
import pytest

from batchrun.adapters.scoring import functions
from tests.harness.slow import rest_slow


@pytest.fixture(scope="module")
def sql():
    """``sql("num", "a 5")``: a function of its arguments."""
    connection = duckdb.connect()
    functions.install(connection)

    def call(name, *arguments):
        marks = ", ".join("?" for _ in arguments)
        return connection.execute(f"SELECT {name}({marks})", list(arguments)).fetchall()[0][0]

    yield call
    connection.close()


CASES = {
    "exact": [
        ("Paris", "paris.", True),
        ("Ｐａｒｉｓ！！", " paris ", True),
        ("a  b\n", "A\u00a0B", True),
        ("巴黎。", "巴黎", True),
        ("really?!.", "really", True),
        ("ﬁne", "fine", True),
        ("x\0y", "X\0Y", True),
        (5, "5", True),
        ("Paris", "London", False),
        ("", "", True),
        (None, "x", None),
        ("x", None, None),
    ],
    "contains_text": [
        ("The capital is PARIS, of course", "paris", True),
        ("答案是 １０", "10", True),
        ("x", "y", False),
        ("x", None, None),
    ],
    "last_match": [
        ("a1 b2 c3", r"\d", "3"),
        ("x=1, y=2", r"(\w)=\d", "y"),
        ("(a) (b)", r"\((\w)\)", "b"),
        ("(a) (b)", r"\(\w\)", "(b)"),
        ("a1", r"(?:a)(?P<n>\d)", "1"),
        ("a1", r"(?:a)\d", "a1"),
        ("FOO foo", r"(?i)foo", "foo"),
        ("a]a", r"[](]a", "]a"),
        ("a\nb", r"(?s)a.b", "a\nb"),
        ("none", r"\d", None),
        (None, r"\d", None),
        ("x", None, None),
    ],
    "num": [
        ("42", 42.0),
        ("It is **42**.", 42.0),
        ("**-5**", -5.0),
        ("$1,234.50", 1234.5),
        ("the total is $1,234, thanks", 1234.0),
        ("costs \\$20", 20.0),
        ("-$5", -5.0),
        ("$-5", -5.0),
        ("€ 30", 30.0),
        ("−5", -5.0),
        ("(−7)", -7.0),
        ("= -3", -3.0),
        ("+8", 8.0),
        ("5-10", 10.0),
        ("2024-05-06", 6.0),
        ("50%", 50.0),
        ("-0.5 %", -0.5),
        ("5kg", 5.0),
        ("5,000kg", 5000.0),
        ("10 m²", 10.0),
        ("1,234,567", 1234567.0),
        ("from 1,000 to 2,000", 2000.0),
        ("1,000-2,000", 2000.0),
        ("1{,}234", 1234.0),
        ("1\\,234", 1234.0),
        ("1\u202f234", 1234.0),
        ("\\boxed{-42}", -42.0),
        ("1e3", 1000.0),
        ("1.5e-3", 0.0015),
        ("x is .5", 0.5),
        ("3.", 3.0),
        ("３５", 35.0),
        ("1. a\n2. b", 2.0),
        (7, 7.0),
        ("1e999", None),
        ("none", None),
        ("", None),
        (None, None),
    ],
    "close": [
        (1.05, 1.0, 0.05, True),
        (1.0, 2.0, 0.1, False),
        ("3.14", 3.14, 0.001, True),
        (0.0, 0.0, 0.1, True),
        (math.inf, math.inf, 0.1, True),
        (math.nan, math.nan, 0.1, False),
        (math.nan, 1.0, 0.1, False),
        ("x", 1.0, 0.1, None),
        (None, 1.0, 0.1, None),
    ],
    "letter": [
        ("B", "B"),
        (" (b) ", "B"),
        ("**C**", "C"),
        ("\\boxed{B}", "B"),
        ("B.", "B"),
        ("Answer: A, because it is", "A"),
        ("Answer: A or B", "A"),
        ("Answer: B) Paris", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is: **B**", "B"),
        ("The answer is option B", "B"),
        ("ANSWER: (D)", "D"),
        ("answer: b", "B"),
        ("**Answer**: F", "F"),
        ("Answer:** C", "C"),
        ("Final answer = $\\boxed{\\text{E}}$", "E"),
        ("so \\boxed{C} it is", "C"),
        ("答案：B", "B"),
        ("答案是 C。", "C"),
        ("answer: A\nno, answer: D", "D"),
        ("The answer is a prime number", None),
        ("Answer: Apple", None),
        ("Answer: A1", None),
        ("Answer A is wrong", None),
        ("A, because", None),
        ("A, B, and C", None),
        ("I think so", None),
        ("", None),
        (None, None),
    ],
    "f1": [
        ("the cat", "The Cat.", 1.0),
        ("the the cat", "the cat", 0.8),
        ("a", "b", 0.0),
        ("", "", 1.0),
        ("我爱你", "我爱他", 2 / 3),
        (None, "x", None),
    ],
}


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [(name, case[:-1], case[-1]) for name, cases in CASES.items() for case in cases],
)
def test_what_is_taken_out_of_a_text(sql, name, arguments, wanted):
    """Each function over what models really write, nulls included."""
    found = sql(name, *arguments)
    assert found == wanted and type(found) is type(wanted)


def test_every_function_for_users_is_proven():
    """No function without cases."""
    assert set(CASES) == set(functions.PUBLIC)


def test_a_broken_pattern_is_an_error_and_a_costly_one_is_quick(sql):
    """RE2's time is linear in the text; a pattern that it refuses is named."""
    with pytest.raises(duckdb.Error, match="missing"):
        sql("last_match", "ab", "(")
    started = time.monotonic()
    assert sql("last_match", "a" * 50_000 + "!", r"(a+)+$") is None
    assert sql("last_match", "a" * 2000, r"(a|aa)*b") is None
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("name", rest_slow(["exact", "contains_text", "num", "letter", "f1"]))
def test_an_answer_of_ten_megabytes_takes_seconds_at_most(sql, name):
    """Time is linear in the text, in every function."""
    text = "word 12,345 (B) 答案 " * 400_000
    arguments = (text,) if name in ("num", "letter") else (text, text)
    started = time.monotonic()
    sql(name, *arguments)
    assert time.monotonic() - started < 60
