"""Whatever an input holds becomes a request, an error row, or carried data; nothing is lost."""

import contextlib
import hashlib
import json
import math

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources import jsonl, opening, rows
from batchrun.adapters.sources.files import storage, streams
from batchrun.adapters.sources.reader import choose
from batchrun.core.request import carried
from batchrun.core.request.body import build, split
from batchrun.core.settings.parameters import SENT
from batchrun.errors import RowError
from batchrun.records import Position, Row, Span
from tests.harness.slow import examples

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**62, 2**65)
    | st.integers(2**53 - 2, 2**53 + 2)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "system", "tool", "assistant", "x", ""]) | JSON,
        "content": st.text(max_size=5) | JSON,
        "tool_call_id": st.text(max_size=3),
    },
)
MESSAGES = st.lists(MESSAGE | JSON, max_size=3) | JSON
BODY = st.fixed_dictionaries({}, optional={"messages": MESSAGES, "model": st.text() | JSON})
ROW = st.fixed_dictionaries(
    {},
    optional={
        "messages": MESSAGES,
        "body": BODY | JSON,
        "custom_id": JSON,
        "method": st.sampled_from(["POST", "post", "GET"]) | JSON,
        "url": st.sampled_from(["/v1/chat/completions", "/v1/embeddings"]) | JSON,
        "extra_body": BODY | JSON,
        "stream": JSON,
        "max_tokens": JSON,
        "n": JSON,
        "model": st.text(max_size=3) | JSON,
        "note": JSON,
    },
) | st.dictionaries(st.text(max_size=6) | st.sampled_from(sorted(SENT)), JSON, max_size=5)


@pytest.mark.slow
@settings(max_examples=examples(200), deadline=None)
@given(ROW, st.dictionaries(st.sampled_from(sorted(SENT - {"messages"})), SCALARS, max_size=2))
def test_any_object_is_a_request_or_a_row_error(fields, defaults):
    """Splitting never raises, building raises RowError at most, and a body is canonical JSON."""
    parts = split(fields)
    assert (parts.body is None) == (parts.problem is not None)
    assert parts.custom_id is None or isinstance(parts.custom_id, str)
    row = Row(0, parts.custom_id, parts.body, parts.problem)
    try:
        request = build(row, {"model": "m"} | defaults, body_bytes_max=100_000)
    except RowError as error:
        assert str(error)  # noqa: PT017 - one of two good ends
        return
    sent = json.loads(request.body)
    assert list(sent) == sorted(sent)
    assert sent["messages"] and isinstance(sent["model"], str)
    assert "extra_body" not in sent and "stream" not in sent
    assert request.hash == hashlib.sha256(request.body).hexdigest()
    assert request.tokens >= 1


@settings(max_examples=examples(120), deadline=None)
@given(ROW)
def test_every_field_is_sent_or_carried(fields):
    """No key of a row disappears: it is in the body, in the envelope, or carried."""
    parts = split(fields)
    if parts.body is None:
        return
    for key in fields.keys() - {"custom_id", "extra_body", "method", "url", "body"}:
        assert key in parts.body or key in parts.carried


def _same(one, other):
    return type(one) is type(other) and one == other


NAMES = st.sampled_from(["a", "b", "c", "d"])
DATA = st.lists(st.dictionaries(NAMES, JSON, max_size=4), max_size=12)


@pytest.mark.slow
@settings(max_examples=examples(125), deadline=None)
@given(DATA, st.integers(0, 12))
def test_every_value_is_in_its_column_or_does_not_fit(rows, sampled):
    """What the schema's sample held fits; what came later fits exactly or is said not to."""
    kinds = carried.infer(rows[:sampled])
    for number, row in enumerate(rows):
        for name, value in row.items():
            if name not in kinds:
                assert number >= sampled
                continue
            held, fits = carried.fit(kinds[name], value)
            assert fits or number >= sampled, (kinds[name], value)
            if not fits:
                assert held is None
            elif kinds[name] != carried.TEXT:
                assert held == value
            elif value is not None and not isinstance(value, str):
                assert json.loads(held) == value
            else:
                assert held == value


def _write(path, rows):
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def _reader(path, shard_rows=5, carry="all"):
    given = opening.Input(tuple(storage.stamp([str(path)])), "jsonl")
    schema = given.reader(None, shard_rows).schema()
    chosen = choose(schema, carry, with_extra=True)
    return given.reader(chosen, shard_rows), chosen


def _blocks(reader, *spans, limit=None):
    return list(reader.blocks(spans or [Span(0, None, Position())], limit=limit))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file that every example writes anew."""
    return tmp_path_factory.mktemp("rows") / "rows.jsonl"


@pytest.mark.slow
@settings(max_examples=examples(120), deadline=None)
@given(rows=DATA, sampled=st.integers(1, 12))
def test_every_carried_value_is_in_its_column_or_in_extra(path, rows, sampled):
    """From the file to Arrow: a row's values come back from its columns and its extra."""
    _write(path, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carried, "SAMPLE_ROWS", sampled)
        reader, chosen = _reader(path)
    names = dict(zip(chosen.names, chosen.schema.names, strict=False))
    published = [
        row for block in _blocks(reader) for row in part_schema.from_ipc(block.carried).to_pylist()
    ]
    assert len(published) == len(rows)
    for row, found in zip(rows, published, strict=True):
        extra = json.loads(found["extra"] or "{}")
        for name, value in row.items():
            if name in extra:
                assert _same(extra[name], value)
                assert name not in names or found[names[name]] is None
                continue
            held = found[names[name]]
            if isinstance(held, str) and not isinstance(value, str):
                held = json.loads(held)
            assert held == value


LINE = st.one_of(
    st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"")),
    st.sampled_from([b"", b" ", b"\r", b"\t \x0b\x0c", b"{}", b'{"a": 1}', b"null", b"x" * 40]),
    JSON.map(lambda value: json.dumps(value).encode()),
    BODY.map(lambda value: json.dumps(value).encode()),
)
TEXT = st.builds(
    # A mark on a line of its own has a case among the bad inputs.
    lambda mark, lines, end, ending: (
        mark * bool(lines and lines[0].strip()) + end.join(lines) + ending
    ),
    st.sampled_from([b"", b"", b"\xef\xbb\xbf"]),
    st.lists(LINE, max_size=14),
    st.sampled_from([b"\n", b"\r\n"]),
    st.sampled_from([b"", b"\n", b"\n\n", b" "]),
)


@contextlib.contextmanager
def _small_bounds(read_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "READ_BYTES", read_bytes)
        patch.setattr(jsonl, "READ_BYTES", read_bytes)
        patch.setattr(jsonl, "LINE_BYTES_MAX", 40)
        patch.setattr(rows, "BLOCK_ROWS", 3)
        patch.setattr(rows, "BLOCK_BYTES", 64)
        yield


@settings(max_examples=examples(125), deadline=None)
@given(data=TEXT | st.binary(max_size=60), read_bytes=st.sampled_from([1, 2, 5, 16, 40]))
def test_any_bytes_are_as_many_rows_as_lines_that_are_not_blank(path, data, read_bytes):
    """Rows, the count made ahead, and the lines themselves agree, wherever reads end."""
    # A mark on a line of its own has a case among the bad inputs.
    assume(not data.startswith(b"\xef\xbb\xbf") or data[3:].split(b"\n")[0].strip())
    assume(not data.startswith(tuple(storage.MAGIC)))  # refused as a whole
    path.write_bytes(data)
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    with _small_bounds(read_bytes):
        reader, _ = _reader(path)
        blocks = _blocks(reader)
        counted = reader.count(lambda: False)
    rows = [row for block in blocks for row in block.rows]
    assert [row.number for row in rows] == list(range(len(lines)))
    assert counted == len(lines)
    for block in blocks:
        assert block.first_row // 5 == (block.first_row + len(block.rows) - 1) // 5 == block.shard
        assert block.rows_read == block.first_row + len(block.rows) - 5 * block.shard
        assert part_schema.from_ipc(block.carried).num_rows == len(block.rows)
    for row, line in zip(rows, lines, strict=True):
        if row.problem is None:
            assert isinstance(json.loads(line), dict)
            assert row.body is not None


@pytest.mark.slow
@settings(max_examples=examples(120), deadline=None)
@given(
    data=TEXT,
    read_bytes=st.sampled_from([1, 7, 40]),
    shard=st.integers(0, 2),
    limit=st.none() | st.integers(1, 12),
)
def test_reading_a_shard_by_itself_is_reading_it_in_the_run(path, data, read_bytes, shard, limit):
    """A span read from its recorded position has the rows and the digest of the whole reading."""
    path.write_bytes(data)
    with _small_bounds(read_bytes):
        reader, _ = _reader(path)
        whole = _blocks(reader, limit=limit)
        before = [block for block in whole if block.shard == shard - 1]
        if shard and not before:
            return
        start = before[-1].end if before else Position()
        alone = _blocks(reader, Span(shard, shard, start), limit=limit)
    expected = [block for block in whole if block.shard == shard]
    assert [row for b in alone for row in b.rows] == [row for b in expected for row in b.rows]
    if expected:
        assert (alone[-1].digest, alone[-1].end) == (expected[-1].digest, expected[-1].end)
        assert alone[-1].rows_read == expected[-1].rows_read


@settings(max_examples=examples(120), deadline=None)
@given(
    st.lists(st.text(max_size=4) | st.sampled_from(["status", "Row", "input_row"]), unique=True),
)
def test_output_names_never_collide(names):
    """Every column gets a name of its own, in any case, and none of the results' own."""
    taken = [*part_schema.RESULT_NAMES, part_schema.EXTRA]
    given_names = carried.output_names(names, taken)
    folded = [name.casefold() for name in [*given_names, *taken]]
    assert len(set(folded)) == len(folded)
    assert len(given_names) == len(names)


@given(st.floats())
def test_numbers_that_json_cannot_hold_are_row_errors(value):
    """A NaN or an infinity among the parameters is refused, a number is sent exactly."""
    row = Row(0, None, {"messages": [{"role": "user", "content": "x"}], "top_p": value})
    if math.isfinite(value):
        request = build(row, {"model": "m"}, body_bytes_max=1000)
        assert json.loads(request.body)["top_p"] == value
    else:
        with pytest.raises(RowError):
            build(row, {"model": "m"}, body_bytes_max=1000)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.none() | st.booleans() | st.integers(-5, 5), max_size=9))
def test_a_batch_survives_the_journals_form(values):
    """Carried columns come back from their stored form as they went in."""
    batch = pa.RecordBatch.from_pydict({"a": pa.array([str(v) for v in values], pa.string())})
    assert part_schema.from_ipc(part_schema.to_ipc(batch)).to_pylist() == batch.to_pylist()
