"""Workbooks: which sheet, which types, which rows; and what is said of those that are none."""

import datetime as dt
import sys

import pyarrow as pa
import pytest
import xlsxwriter

from tests.harness.slow import rest_slow

ASKED = ("--model", "m", "--prompt", "{{ text }}")


@pytest.fixture
def book(cli):
    """Writes a workbook: rows by the name of their sheet. A dict in place of a row is cells by
    their address.
    """

    def write(sheets, name="rows.xlsx"):
        path = cli.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with xlsxwriter.Workbook(path) as made:
            formats = {
                dt.datetime: made.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"}),
                dt.date: made.add_format({"num_format": "yyyy-mm-dd"}),
                dt.time: made.add_format({"num_format": "hh:mm"}),
            }
            for title, rows in sheets.items():
                sheet = made.add_worksheet(title)
                for number, row in enumerate(rows):
                    for column, cell in enumerate(row):
                        if type(cell) in formats:
                            sheet.write_datetime(number, column, cell, formats[type(cell)])
                        elif isinstance(cell, str) and cell[:1] == "=":
                            sheet.write_formula(number, column, cell, None, "computed")
                        elif isinstance(cell, str):
                            sheet.write_string(number, column, cell)
                        elif cell is not None:
                            sheet.write(number, column, cell)
        return path

    return write


DAY, NOON = dt.date(2024, 5, 1), dt.time(12, 30)
MOMENT = dt.datetime(2024, 5, 1, 12, 30, 15)  # noqa: DTZ001 - a spreadsheet knows no time zone


@pytest.mark.parametrize(
    ("cells", "kind", "values", "shown"),
    rest_slow([
        ([1, 2.0, None], pa.int64(), [1, 2, None], ["1", "2", ""]),
        ([1, 2.5, -3], pa.float64(), [1, 2.5, -3], ["1", "2.5", "-3"]),
        ([2**53, 2**60, 1], pa.float64(), [2**53, 2**60, 1], None),
        (["a", "007", ""], pa.string(), ["a", "007", None], ["a", "007", ""]),
        ([True, False, None], pa.bool_(), [True, False, None], ["True", "False", ""]),
        ([DAY, DAY, None], pa.date32(), [DAY, DAY, None], ["2024-05-01", "2024-05-01", ""]),
        ([MOMENT, None, MOMENT], pa.timestamp("us"), [MOMENT, None, MOMENT],
         ["2024-05-01T12:30:15", "", "2024-05-01T12:30:15"]),
        ([DAY, MOMENT, None], pa.timestamp("us"),
         [dt.datetime(2024, 5, 1), MOMENT, None],  # noqa: DTZ001
         ["2024-05-01T00:00:00", "2024-05-01T12:30:15", ""]),
        ([NOON, None, NOON], pa.time64("us"), [NOON, None, NOON], ["12:30:00", "", "12:30:00"]),
        ([1, "a", 2.5], pa.string(), ["1", "a", "2.5"], ["1", "a", "2.5"]),
        ([DAY, "soon", True], pa.string(), ["2024-05-01", "soon", "TRUE"], None),
        (["=A1", "b", None], pa.string(), ["computed", "b", None], ["computed", "b", ""]),
        ([None, None, None], pa.string(), [None, None, None], ["", "", ""]),
    ], 4, several=True),
)  # fmt: skip
def test_a_column_has_the_type_of_its_cells(
    cli, scripted, answer, published, book, cells, kind, values, shown
):
    """Carried as Arrow's type, shown in templates as text; a column of several kinds is text."""
    book({"s": [["text", "it"], *(["x", cell] for cell in cells)]})
    endpoint = scripted(lambda *_: (200, {}, answer()))
    done = cli.run(
        *("rows.xlsx", "-o", "run", "--prompt", "{{ text }}{{ it }}", "--concurrency", "1"),
        *("--base-url", endpoint.base_url),
    )
    assert done.code == 0, done.err
    table = published(cli.folder / "run")
    assert table["it"].type == kind
    assert table["it"].to_pylist() == values
    said = [body["messages"][0]["content"][1:] for _, _, body in endpoint.requests]
    assert shown is None or [text.lower() for text in said] == [text.lower() for text in shown]


def test_the_first_sheet_or_the_one_that_is_named(cli, simulator, published, book):
    """``FILE.xlsx#SHEET``; another sheet of the same file is another input."""
    book({"one": [["text"], ["a"]], "Zwei #2": [["text"], ["b"], ["c"]]})
    command = ("-o", "run", "--prompt", "{{ text }}", "--base-url", simulator().base_url)
    assert cli.run("rows.xlsx", *command).code == 0
    assert cli.run("rows.xlsx#one", *command).code == 0
    assert cli.run("rows.xlsx#Zwei #2", *command).code == 2
    assert cli.run("rows.xlsx#Zwei #2", *command, "--restart").code == 0
    assert published(cli.folder / "run")["text"].to_pylist() == ["b", "c"]
    done = cli("validate", "rows.xlsx#three", *ASKED)
    assert done.code == 2
    assert "rows.xlsx has no sheet 'three'; its sheets are: 'one', 'Zwei #2'" in done.err


@pytest.mark.slow
def test_globs_and_directories(cli, book):
    """A glob may name a sheet of every file; a directory of workbooks is an input."""
    for name in ("a", "b"):
        book({"x": [["text"], ["1"]], "y": [["text"], ["2"], ["3"]]}, f"rows/{name}.xlsx")
    for given, rows in (("rows", 2), ("rows/*.xlsx", 2), ("rows/*.xlsx#y", 4)):
        done = cli("validate", given, *ASKED, "--json")
        assert done.json["rows"] == rows, done.err
    (cli.folder / "rows" / "c.csv").write_text("text\nx\n")
    assert cli("validate", "rows", *ASKED, "--json").json["rows"] == 1


def test_a_file_whose_name_has_a_hash(cli, book):
    """A file of exactly that name is that file."""
    book({"x": [["text"], ["1"]]}, "a.xlsx#1.xlsx")
    assert cli("validate", "a.xlsx#1.xlsx", *ASKED).code == 0


def test_empty_rows_and_columns_are_none(cli, simulator, published, book):
    """Before, between and behind the others; messages name the rows of the sheet."""
    rows = [[], [None, "text", None, "note", None], [None, "a", None, 1], [], [None, None, None, 2],
            [None, "", None, ""], [None, "b"], [], []]  # fmt: skip
    book({"s": rows})
    path = cli.folder / "rows.xlsx"
    done = cli("validate", path, *ASKED)
    assert done.code == 1 and "rows.xlsx row 5 (row 1): the prompt is empty" in done.out, done.out
    done = cli.run(
        *(path, "-o", "run", "--prompt", "{{ text }}", "--base-url", simulator().base_url),
        *("--shard-rows", "1"),
    )
    assert done.code == 1 and "rows.xlsx row 5: the prompt is empty" in done.err
    table = published(cli.folder / "run")
    assert table["text"].to_pylist() == ["a", None, "b"]
    assert table["note"].to_pylist() == [1, 2, None]


@pytest.mark.slow
def test_a_resume_and_an_edit(cli, simulator, book):
    """Rows that are done are not sent again; an edited cell is told of."""
    rows = [["text", "note"], *([f"q{n}", n] for n in range(40))]
    book({"s": rows})
    endpoint = simulator()
    command = ("rows.xlsx", "-o", "run", "--prompt", "{{ text }}", "--base-url", endpoint.base_url)
    for limit in (3, 10, 25):
        assert cli.run(*command, "--shard-rows", "10", "--limit", str(limit)).code == 0
    assert cli.run(*command, "--shard-rows", "10").code == 0
    assert endpoint.stats()["requests_total"] == 40
    assert cli.verified("run")["rows"] == 40
    rows[7][0] = "other"
    book({"s": rows})
    assert cli.run(*command, "--shard-rows", "10").code == 2
    assert cli.run(*command, "--shard-rows", "10", "--resend-changed").code == 0
    assert endpoint.stats()["requests_total"] == 41
    assert cli("verify", "run", "--against", "rows.xlsx").code == 0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "not a single row"),
        ([["text", "n"]], "not a single row"),
        ([["text", "text"], ["a", "b"]], "names the column 'text' more than once"),
        ([[2024, "2024"], ["a", "b"]], "names the column '2024' more than once"),
    ],
)
def test_a_sheet_without_rows(cli, book, rows, words):
    """Exit 2, and what is wrong."""
    book({"s": rows})
    done = cli("validate", "rows.xlsx", "--model", "m", "--prompt", "hi")
    assert done.code == 2 and words in done.err


def test_a_header_of_numbers_and_dates_is_text(cli, book):
    """As it is shown, without a fraction that is none."""
    book({"s": [["text", 2024, 1.5, DAY], ["a", "b", "c", "d"]]})
    done = cli("validate", "rows.xlsx", "--model", "m", "--prompt", "{{ nothing }}")
    assert "text, _2024, _1_5, _2024_05_01" in done.err


@pytest.mark.parametrize("data", [b"", b"no", b"PK\x03\x04", b"\xd0\xcf\x11\xe0" + b"\0" * 600])
@pytest.mark.parametrize("name", ["rows.xlsx", "rows.xls", "rows.ods", "rows.xlsb"])
def test_what_is_no_workbook_is_named(cli, data, name):
    """Exit 2, the file, and what to do; the same for one that is cut off."""
    (cli.folder / name).write_bytes(data)
    done = cli("validate", name, *ASKED)
    assert done.code == 2 and f"input {name} cannot be read as a workbook" in done.err, done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_workbook_that_is_cut_off(cli, book, share):
    """Wherever it ends."""
    path = book({"s": [["text"], *([f"q{n}"] for n in range(300))]})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    done = cli("validate", path, *ASKED)
    assert done.code == 2 and "cannot be read as a workbook" in done.err


def test_without_the_library_the_extra_is_named(cli, book):
    """Exit 2, with the command that installs it; other formats need none of it."""
    book({"s": [["text"], ["a"]]})
    (cli.folder / "rows.csv").write_text("text\na\n")
    program = (
        "import sys; sys.modules['python_calamine'] = None; "
        "from batchrun.cli.main import main; main()"
    )
    import subprocess

    for name, code in (("rows.xlsx", 2), ("rows.csv", 0)):
        done = subprocess.run(
            [sys.executable, "-c", program, "validate", name, *ASKED],
            cwd=cli.folder, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        if code:
            assert "pip install 'batchrun-llm[excel]'" in done.stderr
