"""Input in an S3 bucket, read from a real S3 server."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter

from batchrun.adapters.sources import opening
from batchrun.adapters.sources.files import finding
from batchrun.errors import InputError, InputLostError
from batchrun.records import Position, Span

QUICK = ("--no-progress", "--shard-rows", 10)


@pytest.fixture
def run(cli, simulator, store):
    """Runs inputs into ``run``; the endpoint is its attribute."""
    endpoint = simulator()

    def start(*sources, **more):
        arguments = (*sources, "-o", "run", *QUICK, "--base-url", endpoint.base_url)
        return cli.run(*arguments, env=store.env | more)

    start.endpoint = endpoint
    return start


def _lines(chat, numbers):
    return "".join(json.dumps(chat(n, ticket=n)) + "\n" for n in numbers).encode()


def _parquet(chat, numbers):
    rows = [{"messages": json.dumps(chat(n)["messages"]), "ticket": n} for n in numbers]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=7)
    return out.getvalue()


def _packed(chat, numbers):
    return gzip.compress(_lines(chat, numbers))


@pytest.mark.parametrize(("suffix", "write"), [("parquet", _parquet), ("jsonl.gz", _packed)])
def test_objects_are_input_like_files(run, cli, store, chat, published, suffix, write):
    """A prefix is a directory: its objects are read in order, others are passed over."""
    store.put(f"in/b c.{suffix}", write(chat, range(12, 25)))
    store.put(f"in/a.{suffix}", write(chat, range(12)))
    store.put("in/_SUCCESS", b"")
    store.put(f"in/.hidden/x.{suffix}", write(chat, range(3)))
    store.put(f"other/z.{suffix}", write(chat, range(3)))
    done = run(f"s3://{store.bucket}/in")
    assert done.code == 0, done.err
    assert published(cli.folder / "run")["ticket"].to_pylist() == list(range(25))
    cli.verified("run")


def test_objects_of_every_format(run, cli, store, published):
    """Dialects, arrays, workbooks and folders of columns are told from objects as from files."""
    book = io.BytesIO()
    with xlsxwriter.Workbook(book) as made:
        made.add_worksheet("x").write_column(0, 0, ["text", "größe"])
        made.add_worksheet("y").write_column(0, 0, ["text", "größe", "größe"])
    objects = {
        "csv/lang=de/a.csv.gz": gzip.compress("text;x\ngröße;1\n".encode("cp1252")),
        "utf/lang=de/a.csv": "text\tx\ngröße\t1\n".encode("utf-16"),
        "json/lang=de/a.json": json.dumps([{"text": "größe"}]).encode(),
        "book/lang=de/a.xlsx": book.getvalue(),
        "table/lang=de/a.parquet": _table({"text": ["größe"]}),
    }
    for key, data in objects.items():
        store.put(key, data)
    for kind in {key.partition("/")[0] for key in objects}:
        for given in (kind, f"{kind}/*/a.*"):
            address = f"s3://{store.bucket}/{given}"
            done = run(address, "--prompt", "{{ text }} {{ lang }}", "--restart")
            assert done.code == 0, done.err
            [row] = published(cli.folder / "run").select(["text", "lang"]).to_pylist()
            assert row == {"text": "größe", "lang": "de"}
    address = f"s3://{store.bucket}/book/lang=de/a.xlsx#y"
    assert run(address, "--prompt", "{{ text }}", "--restart").code == 0
    assert published(cli.folder / "run").num_rows == 2


def _table(columns):
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def test_an_edited_object_is_noticed_by_its_etag(run, store, chat):
    """An edit of the same size in the same second is named; the same bytes written again are the
    same input, and an object left alone is trusted.
    """
    source = store.put("rows.jsonl", _lines(chat, range(25)))
    assert run(source).code == 0
    assert "comparing" not in run(source).err
    store.put("rows.jsonl", _lines(chat, [*range(24), 99]))
    edited = run(source)
    assert edited.code == 2, edited.err
    assert "comparing" in edited.err and "difference is within rows 20 to" in edited.err
    store.put("rows.jsonl", _lines(chat, range(25)))
    assert run(source).code == 0
    assert run.endpoint.stats()["requests_total"] == 25


def test_a_glob_over_objects(run, cli, store, chat, published):
    """Stars stay inside a folder, two of them cross it."""
    for number, key in enumerate(["a/1.jsonl", "a/2.jsonl", "a/b/3.jsonl", "c/4.jsonl"]):
        store.put(key, _lines(chat, [number]))
    one = run(f"s3://{store.bucket}/a/*.jsonl")
    assert one.code == 0, one.err
    assert published(cli.folder / "run")["ticket"].to_pylist() == [0, 1]
    for pattern, numbers in {
        "**/[!4]*.jsonl": "123",
        "a/**": "123",
        "?/?.jsonl": "124",
        "a?b/*": None,
        "*/*/*": "3",
    }.items():
        address = f"s3://{store.bucket}/{pattern}"
        if numbers is None:
            with pytest.raises(InputError, match="no file matches"):
                finding.expand([address], "auto")
        else:
            found = finding.expand([address], "auto")
            assert "".join(file.path[-7] for file in found) == numbers, pattern


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("none.jsonl", "none.jsonl: No such file"),
        ("none/*.jsonl", "none/.*: no file matches"),
        ("odd", "odd: the directory holds 1 file, none of a known suffix"),
        ("odd/x.txt", "odd/x.txt: .txt is not a format"),
    ],
)
def test_an_object_that_is_no_input_is_named(store, key, words):
    """The address and the reason."""
    store.put("odd/x.txt", b"{}")
    with pytest.raises(InputError, match=words):
        opening.find([f"s3://{store.bucket}/{key}"], "auto")


def test_a_missing_bucket_and_a_wrong_endpoint_are_named(run):
    """What the store says reaches the user, in one line."""
    done = run("s3://no-such-bucket-here/x.jsonl")
    assert done.code == 2 and "no-such-bucket-here" in done.err, done.err
    dead = "s3://x/x.jsonl?endpoint_override=http://127.0.0.1:9&connect_timeout=1&retry_attempts=1"
    done = run(dead)
    assert done.code == 2 and "Traceback" not in done.err, done.err
    assert "endpoint_override" not in done.err


def test_an_object_replaced_during_a_run_stops_it(store, chat):
    """A reader never mixes two versions of an object."""
    address = store.put("rows.jsonl", _lines(chat, range(20)))
    given = opening.find([address], "auto")
    reader = given.reader(given.carry("all", 10), 10)
    assert len(list(reader.blocks([Span(0, None, Position())], limit=None))) == 2
    store.put("rows.jsonl", _lines(chat, range(1, 21)))
    with pytest.raises(InputLostError, match="replaced"):
        list(reader.blocks([Span(0, None, Position())], limit=None))


@pytest.mark.parametrize("given", ["out", "out/results", "out/results/part-00000000.parquet", ""])
def test_results_of_a_run_in_a_bucket_are_no_input(run, store, chat, given):
    """Its folder, its parts, and whatever lies above them: the export is named in place of them."""
    for kind in ("results", "attempts"):
        store.put(f"out/{kind}/part-00000000.parquet", _parquet(chat, range(3)))
    store.put("out/summary.json", b"{}")
    done = run(f"s3://{store.bucket}/{given}".rstrip("/"))
    assert done.code == 2, done.err
    assert "batchrun export" in done.err and f"{store.bucket}/out" in done.err
    assert not run.endpoint.stats()["by_status"]


def test_a_part_that_is_no_run_s_is_input(run, store, chat):
    """A data set may have the same names: what tells a run is what lies beside its parts."""
    store.put("data/results/part-00000000.parquet", _parquet(chat, range(3)))
    done = run(f"s3://{store.bucket}/data")
    assert done.code == 0, done.err
