"""Delimiter and encoding as the first bytes of a file tell them."""

import random

import pytest

from batchrun.core.input import dialect


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        (b"", "utf-8"),
        (b"a,b\n", "utf-8"),
        ("größe\n".encode(), "utf-8"),
        ("größe\n".encode("utf-8-sig"), "utf-8"),
        ("größe\n".encode("utf-16"), "utf-16-le"),
        (b"\xfe\xff" + "größe\n".encode("utf-16-be"), "utf-16-be"),
        ("größe\n".encode("utf-32"), "utf-32-le"),
        ("a;größe\n1;ü\n".encode("utf-16-le"), "utf-16-le"),
        ("a;größe\n1;ü\n".encode("utf-16-be"), "utf-16-be"),
        ("多少钱多少钱\n".encode("utf-16-le"), "utf-8"),  # not certain without a mark
        ("größe\n".encode("cp1252"), "cp1252"),
        ("“Zitat” – 5 €\n".encode("cp1252"), "cp1252"),
        (b"a\xffb\n", "utf-8"),  # a letter of Windows-1252, and rather a broken byte
        (b"a\0\xe4b\n", "utf-8"),
        ("größe, straße, über\n".encode() + b"br\xfcchig\n", "utf-8"),  # one byte is broken
        ("größe\n".encode("cp1252") + b"\x81\n", "utf-8"),  # Windows-1252 has no such byte
        (b"a\0b\0", "utf-8"),
    ],
)
def test_the_encoding(head, encoding):
    """UTF-8 unless something else is certain."""
    assert dialect.encoding_of(head, whole=True) == encoding


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_character_at_the_end_of_the_head(cut):
    """A character that the head cuts in two is no fault of the file."""
    head = "größe €\U0001f600".encode()[:-cut]
    assert dialect.encoding_of(head, whole=False) == "utf-8"


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("", ","),
        ("a\n", ","),
        ("a;b\n", ";"),
        ("a|b\n1|2\n", "|"),
        ("a\tb\n1\t2\n", "\t"),
        ("a,b\n1;2,3\n", ","),
        ("a\nx;y\nz;w\n", ","),  # the header names one column
        ("a;b\n1,5;2,5\n", ";"),
        ("Name, first;n\nA, B;1\nC;2\n", ";"),
        ("Name, first;n\nA, B;1\nC, D;2\n", ","),  # both would do
        ("a,b;c;d\n1,2;3;4\n", ";"),  # both would do, and three columns are no accident
        ("a|b\n" + "1|2|3\n" * 9, ","),
        ('"a;b",c\n"x;y",1\n', ","),
        ('"a,b";c\n"x,y";1\n', ";"),
        ('a;b\n"1\n2;3\n4";x\n', ";"),
        ('a;b\n1;"open\n2;3\n4;5\n', ";"),
        ("a;b\n1\n2\n3;4\n", ","),
        ("a,b\n1\n2\n", ","),
        ("a\tb;c\n1\t2\n1\t3\n", "\t"),
        ("\n\n  \na;b\n1;2\n", ";"),
    ],
)
def test_the_delimiter(text, delimiter):
    """Comma unless the records agree on another one."""
    assert dialect.delimiter_of(text, ",", quoted=True, whole=True) == delimiter


def test_without_quoting_a_quote_is_text():
    """Quotes that are never closed do not hide the delimiters."""
    text = 'a;b\n5" tall;1\n"so;2\n'
    assert dialect.delimiter_of(text, ",", quoted=False, whole=True) == ";"


def test_a_record_that_the_head_cuts_is_no_evidence():
    """The last line may go on behind the head."""
    text = "a;b;c\n1;2;3\n1"
    assert dialect.delimiter_of(text, ",", quoted=True, whole=False) == ";"


def test_tables_of_prose_keep_their_commas():
    """Texts with semicolons, tabs and pipes in a CSV with commas are not taken apart."""
    rng = random.Random(7)
    words = ["yes; no", "a|b", "tab\there", "plain", "x;y;z", "1;2", "Hello", "so, then"]
    for _ in range(300):
        names = rng.sample(["id", "text", "note", "lang", "n"], rng.randrange(1, 5))
        rows = [
            ",".join('"' + " ".join(rng.choices(words, k=3)) + '"' for _ in names)
            for _ in range(rng.randrange(9))
        ]
        text = "\n".join([",".join(names), *rows, ""])
        assert dialect.delimiter_of(text, ",", quoted=True, whole=True) == ",", text


def test_a_head_of_quotes_is_looked_at_in_time():
    """Quotes that never close are not followed to the end again and again."""
    text = '"' + '\n"x;y' * 50_000
    assert dialect.delimiter_of(text, ",", quoted=True, whole=True) == ","


@pytest.mark.parametrize(
    ("line", "delimiter"),
    [
        (b"sep=;", ";"),
        (b"SEP=;\r", ";"),
        (b'"sep=;"', ";"),
        (b"sep=\t", "\t"),
        (b"sep=,", ","),
        (b"sep=", None),
        (b"sep=;;", None),
        (b"sep;", None),
        (b"separator=;", None),
        (b"sep=\xff", None),
    ],
)
def test_the_line_of_a_spreadsheet(line, delimiter):
    """``sep=`` and one character."""
    assert dialect.sep_line(line) == delimiter


@pytest.mark.parametrize(
    ("name", "found"),
    [("tab", "\t"), ("\\t", "\t"), ("\t", "\t"), (";", ";"), ("é", "é"), ("", None), ("ab", None),
     ("\n", None), ('"', None)],
)  # fmt: skip
def test_names_of_delimiters(name, found):
    """One character, or the name of one that is hard to type."""
    assert dialect.delimiter_named(name) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("UTF8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("Windows-1252", "cp1252"),
        ("latin-1", "iso8859-1"),
        ("UTF-16", "utf-16"),
        ("utf-16-be", "utf-16-be"),
        ("gb18030", "gb18030"),
        ("cp037", None),
        ("utf-7", None),
        ("iso2022_jp", None),
        ("hz", None),
        ("rot13", None),
        ("hex", None),
        ("unicode_escape", None),
        ("nothing", None),
        ("a\0b", None),
    ],
)
def test_names_of_encodings(name, found):
    """Those whose lines can be told apart before they are decoded."""
    assert dialect.encoding_named(name) == found
