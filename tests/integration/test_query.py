"""``batchrun query``: SQL over a run's files, in every format, and nothing else."""

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchrun.simulator.embedded import EmbeddedSimulator
from batchrun.simulator.plan import SimulatorOptions
from tests.harness.slow import rest_slow


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run with scores and a failed row."""
    import batchrun

    folder = tmp_path_factory.mktemp("queried")
    rows = [
        {"messages": [{"role": "user", "content": f"q {n}"}], "topic": f"t{n % 2}"}
        for n in range(12)
    ]
    rows[5] = {"topic": "t1"}
    with EmbeddedSimulator(SimulatorOptions()) as endpoint:
        batchrun.run(
            rows,
            output=folder / "run",
            base_url=endpoint.base_url,
            model="m",
            shard_rows=4,
            scores={"long": "len(content) > 10"},
        )
    return folder / "run"


def test_every_view_is_there(cli, run_folder):
    """Results, attempts, usage and scores; true is 1.0 in SQL."""
    for view, rows in (("results", 12), ("attempts", 11), ("usage", 2), ("scores", 12)):
        done = cli("query", run_folder, "SELECT count(*) AS n FROM " + view, "--json")  # noqa: S608 - ours
        assert json.loads(done.out) == [{"n": rows}], done.err
    sql = (
        "SELECT topic, avg(long) AS long FROM results JOIN scores USING (row) GROUP BY 1 ORDER BY 1"
    )
    done = cli("query", run_folder, sql, "--format", "json")
    assert json.loads(done.out) == [
        {"topic": "t0", "long": 1.0},
        {"topic": "t1", "long": 5 / 6},
    ]


@pytest.mark.slow
def test_formats_and_files(cli, run_folder):
    """Table and CSV on stdout, Parquet and JSON in files, which appear whole and are not replaced
    without being asked.
    """
    sql = "SELECT row, status, choices, started_at FROM results ORDER BY row LIMIT 3"
    table = cli("query", run_folder, sql)
    assert table.code == 0, table.err
    assert table.out.split()[:4] == ["row", "status", "choices", "started_at"], repr(table.out)
    comma = cli(
        "query", run_folder, "SELECT row, '=1+1' AS x FROM results LIMIT 1", "--format", "csv"
    )
    assert list(csv.reader(io.StringIO(comma.out))) == [["row", "x"], ["0", "'=1+1"]]
    done = cli("query", run_folder, sql, "-o", "x.parquet")
    assert done.code == 0, done.err
    assert "wrote 3 rows to x.parquet" in done.err
    assert pq.read_table(cli.folder / "x.parquet").num_rows == 3
    assert cli("query", run_folder, sql, "-o", "x.parquet").code == 2
    assert cli("query", run_folder, sql, "-o", "x.parquet", "--force").code == 0
    assert cli("query", run_folder, sql, "-o", "x.json").code == 0
    assert [line["row"] for line in json.loads((cli.folder / "x.json").read_text())] == [0, 1, 2]
    assert cli("query", run_folder, sql, "-o", "x.txt").code == 2
    assert cli("query", run_folder, sql, "--format", "parquet").code == 2
    own = run_folder / "results" / "x.csv"
    assert cli("query", run_folder, sql, "-o", own).code == 2
    assert not own.exists()


REFUSED = [
    "SELECT * FROM read_text('/etc/hostname')",
    "COPY (SELECT 1) TO 'stolen.csv'",
    "SELECT * FROM duckdb_settings()",
    "SELECT nope FROM results",
    "SELECT CAST(content AS INT) FROM results",
    "SELECT 1; SELECT 2",
    "",
]


@pytest.mark.parametrize("sql", rest_slow(REFUSED, 2))
def test_what_is_refused_is_exit_2(cli, run_folder, sql):
    """A message, no traceback, no file."""
    done = cli("query", run_folder, sql, "-o", "stolen.csv")
    assert done.code == 2
    assert "the query" in done.err and "Traceback" not in done.err
    assert not (cli.folder / "stolen.csv").exists()
    assert not list(cli.folder.glob(".*tmp"))


def test_nothing_to_query(cli, tmp_path):
    """A folder without results is exit 2."""
    done = cli("query", tmp_path, "SELECT 1")
    assert done.code == 2
    assert "no results" in done.err


def test_odd_values_in_json(cli, run_folder):
    """What JSON has no word for is null, text or a number."""
    sql = (
        "SELECT 'nan'::DOUBLE AS a, 1.5::DECIMAL(4, 2) AS b, DATE '2026-01-02' AS c, "
        "'\\x00'::BLOB AS d, [1, NULL] AS e, {'x': 'inf'::DOUBLE} AS f, "
        "170141183460469231731::HUGEINT AS g FROM results LIMIT 1"
    )
    done = cli("query", run_folder, sql, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == [
        {
            "a": None,
            "b": 1.5,
            "c": "2026-01-02",
            "d": "AA==",
            "e": [1, None],
            "f": {"x": None},
            "g": 170141183460469231731,
        }
    ]
    assert Path(run_folder, "summary.json").exists()
