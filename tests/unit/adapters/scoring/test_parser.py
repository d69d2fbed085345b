"""SQL that is let through, and SQL that is not: what counts is DuckDB's own reading of it."""

import pyarrow as pa
import pytest

from batchrun.adapters.scoring.database import Database, Table
from batchrun.errors import ScoringError, UsageError

VIEWS = ("results", "attempts", "usage", "scores")


@pytest.fixture(scope="module")
def database():
    """One locked database."""
    with Database() as database:
        yield database


GOOD = [
    "exact(letter(content), expected)",
    "1 -- a comment",
    "1 /* a comment */",
    "CASE WHEN a THEN 1 ELSE 2 END",
    "a BETWEEN 1 AND 2 AND b IS NOT NULL AND c IN (1, 2) AND NOT d",
    "a::DOUBLE + try_cast(b AS DOUBLE)",
    "x ->> '$.a' LIKE 'x%' ESCAPE '!'",
    "tool_calls[1].name = 'f'",
    "list_sum(list_transform([1, 2], lambda x: x + 1))",
    "extract(year FROM created) > 2000",
    "(a) + (b)",
    "'a;b--c' = content",
    "TRY(CAST(a AS INT))",
]


@pytest.mark.parametrize("text", GOOD)
def test_expressions_over_columns_are_scores(database, text):
    """One expression of any kind that depends on the row alone."""
    assert database.expression(text, "scores.x", "score").text == text


BAD = [
    "",
    "1; DROP TABLE results",
    "1; SELECT 2",
    "1) FROM results --",
    "1) + (2",
    "1 /* open",
    "1 UNION SELECT 2",
    "SELECT 1",
    "1 FROM results",
    "1 WHERE true",
    "a, b",
    "a AS b",
    "a b",
    "DISTINCT a",
    "a ORDER BY 1",
    "(SELECT 1)",
    "x IN (SELECT 1)",
    "EXISTS (SELECT 1)",
    "ARRAY(SELECT 1)",
    "sum(x)",
    "sum(x) OVER ()",
    "row_number() OVER ()",
    "*",
    "COLUMNS('x')",
    "?",
    "$1",
    "#1",
    "DEFAULT",
    "random()",
    "now()",
    "uuid()",
    "nextval('x')",
    "getenv('HOME')",
    "current_setting('threads')",
    "getvariable('x')",
    "current_query()",
    "pg_get_viewdef(1)",
    "version()",
    "read_text('/etc/passwd')",
    "query('SELECT 1')",
    "system.main.exact(a, b)",
    "__normal(a)",
    "write_log('x')",
    "sleep_ms(1)",
    "a\0b",
    "1+" * 5000 + "1",
    "x" * 200_000,
]


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:30])
def test_anything_else_is_refused_with_its_key(database, text):
    """A message names the key, whatever the text tries."""
    with pytest.raises(UsageError, match=r"scores\.x"):
        database.expression(text, "scores.x", "score")


@pytest.mark.parametrize(
    ("text", "of", "only"),
    [
        ("avg(x)", "x", None),
        ("mean(a + 1) FILTER (WHERE b = 'x''y')", "(a + 1)", "(b = 'x''y')"),
        ("avg(DISTINCT x)", None, None),
        ("1 - avg(x)", None, None),
        ("sum(x) / count(*)", None, None),
    ],
)
def test_a_mean_is_told_from_other_aggregates(database, text, of, only):
    """What is averaged, and over which rows: its interval is that of a mean."""
    found = database.expression(text, "metrics.x", "metric")
    assert (found.mean_of, found.mean_filter) == (of, only)


QUERIES = [
    "SELECT * FROM results",
    "FROM results;",
    "SELECT count(*) FROM results r JOIN scores s USING (row) WHERE r.status = 'ok'",
    "WITH a AS (SELECT row FROM results) SELECT * FROM a, results",
    "SELECT unnest([1, 2]), now(), random()",
    "SELECT * FROM range(3)",
    "SELECT row_number() OVER (ORDER BY row) FROM results",
    "SELECT row FROM results UNION ALL SELECT row FROM attempts ORDER BY 1 LIMIT 3",
]


@pytest.mark.parametrize("text", QUERIES)
def test_a_query_is_one_select_over_the_views(database, text):
    """Joins, windows, subqueries and WITH are what SQL is for."""
    assert database.query(text, VIEWS)


NO_QUERIES = [
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'x.csv'",
    "WITH a AS (SELECT * FROM read_csv('x')) SELECT * FROM a",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT * FROM glob('*')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_tables",
    "SELECT * FROM main.results",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT current_setting('home_directory')",
    "SELECT getenv('HOME')",
    "SELECT * FROM secrets",
    "SELECT sleep_ms(5)",
    "SHOW TABLES",
    "DESCRIBE results",
    "PRAGMA version",
    "SET threads = 1",
    "ATTACH 'x'",
    "INSTALL httpfs",
    "LOAD json",
    "COPY results TO 'x'",
    "CREATE TABLE x AS SELECT 1",
    "INSERT INTO results VALUES (1)",
    "CALL duckdb_settings()",
    "EXPLAIN SELECT 1",
    "SELECT 1; SELECT 2",
    "",
]


@pytest.mark.parametrize("text", NO_QUERIES)
def test_a_query_reaches_nothing_else(database, text):
    """No file, setting, secret or other statement, however it is dressed."""
    with pytest.raises(UsageError, match="the query"):
        database.query(text, VIEWS)


def test_the_engine_itself_is_locked(database):
    """Should a statement ever get past the parser, the engine refuses it too."""
    for sql in (
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO '/tmp/x'",
        "ATTACH '/tmp/x.db'",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "INSTALL httpfs",
    ):
        with pytest.raises(ScoringError):
            database.rows(sql, "x")


def test_tables_are_read_anew_by_every_scan(database):
    """A table may be joined with itself, and what its reader raises comes out as it was."""
    table = pa.table({"row": [1, 2, 3]})
    with database.tables(results=Table(table.schema, table.to_batches)):
        assert database.rows("SELECT count(*) FROM results JOIN results r USING (row)", "x") == [
            (3,)
        ]

    def broken():
        raise ZeroDivisionError("the disk")

    with database.tables(results=Table(table.schema, broken)), pytest.raises(ZeroDivisionError):
        database.rows("SELECT count(*) FROM results", "x")
