"""With a prompt every column is data, whatever its name and its values, in any format."""

import csv
import json
import keyword

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.sources import memory
from batchrun.core.request import body
from batchrun.core.request import prompt as prompts
from batchrun.core.request.body import id_text
from batchrun.core.settings import resolve as config
from batchrun.core.settings.parameters import ENVELOPE, SENT
from batchrun.records import Position, Span
from tests.harness.slow import examples, rest_slow

KNOWN = sorted(SENT | ENVELOPE | {"extra_body"})
WORDS = "loop range none true false not in is if else self super caller cycler dict namespace debug"
NAMES = (
    st.sampled_from(KNOWN)
    | st.builds(lambda name, change: change(name), st.sampled_from(KNOWN),
                st.sampled_from([str.upper, str.title, str.capitalize, "{} ".format, " {}".format]))
    | st.sampled_from([*WORDS.split(), *keyword.kwlist])
    | st.sampled_from(["custom-id", "Custom_ID", "custom_id ", "id", "row", "content", "extra"])
    | st.text(st.sampled_from("abzÄöß .-_/1日\u200d{}'"), min_size=1, max_size=8).filter(str.strip)
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["C"]), max_size=6) | st.sampled_from(
    ["0.5", "3", "true", "NaN", '{"a": 1}', "[", "someone@example.com", "{{ q }}"]
)
WHOLE = st.integers(-(2**60), 2**60)
JSON = st.recursive(
    st.none() | st.booleans() | WHOLE | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
COLUMNS = (
    st.tuples(*[TEXT] * 2)
    | st.tuples(*[WHOLE | st.none()] * 2)
    | st.tuples(*[st.booleans() | st.none()] * 2)
    | st.tuples(*[st.floats() | st.none()] * 2)
    | st.tuples(*[st.lists(TEXT, max_size=2)] * 2)
    | st.tuples(*[st.fixed_dictionaries({"a": TEXT, "messages": WHOLE | st.none()})] * 2)
)
"""Two values of one type, as a table's column has them."""
LEAST = {"input.files": ["f"], "output.dir": "d", "request.model": "run's"}


def _csv(path, table, delimiter):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(
            file, delimiter=delimiter, lineterminator="\n",
            quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE, quotechar='"',
        )  # fmt: skip
        if delimiter == ",":
            writer.writerow(table)
            writer.writerows(zip(*table.values(), strict=True))
        else:
            lines = [table, *zip(*table.values(), strict=True)]
            file.writelines("\t".join(map(str, line)) + "\n" for line in lines)
    return str(path)


def _rows(table):
    return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


def _text(value):
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _texts(table):
    return {name: [_text(value) for value in values] for name, values in table.items()}


def _jsonl(path, table):
    path.write_text("".join(json.dumps(row) + "\n" for row in _rows(table)), "utf-8")
    return str(path)


def _parquet(path, table):
    pq.write_table(pa.table({name: pa.array(values) for name, values in table.items()}), path)
    return str(path)


SOURCES = {
    "csv": lambda folder, table: _csv(folder / "in.csv", _texts(table), ","),
    "tsv": lambda folder, table: _csv(folder / "in.tsv", _texts(table), "\t"),
    "jsonl": lambda folder, table: _jsonl(folder / "in.jsonl", table),
    "parquet": lambda folder, table: _parquet(folder / "in.parquet", table),
    "dicts": lambda _, table: _rows(table),
    "table": lambda _, table: pa.table({n: pa.array(v) for n, v in table.items()}),
}


def _read(rows, raw=None):
    """The requests of an input, its carried columns by their names there, and their values."""
    chosen = config.resolve(LEAST | {"request.prompt": "Q: {{ q }}"} | (raw or {}))
    found = memory.find(rows, "auto", prompts.plan(chosen))
    carry = found.carry("all", 4)
    blocks = list(found.reader(carry, 4).blocks([Span(0, None, Position())], limit=None))
    build = body.builder(chosen)
    requests = [json.loads(build(row).body) for block in blocks for row in block.rows]
    ids = [row.custom_id for block in blocks for row in block.rows]
    held = pa.concat_tables([part_schema.from_ipc(block.carried) for block in blocks])
    return requests, ids, dict(zip(carry.names, carry.schema.names, strict=False)), held


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where every example writes its file anew."""
    return tmp_path_factory.mktemp("columns")


@pytest.mark.parametrize("kind", rest_slow(SOURCES, 2))
@settings(max_examples=examples(60), deadline=None)
@given(table=st.dictionaries(NAMES, COLUMNS, max_size=6))
@example(table=dict.fromkeys(KNOWN, ("a", "b")))
@example(table={"messages": ("x", "y"), "body": ("{", "}"), "n": (3, None), "stream": (True, True)})
def test_nothing_of_a_data_row_is_sent_and_all_of_it_is_carried(kind, table, folder):
    """The body has the prompt's messages and the run's model and parameters; every column is among
    the carried ones, values and all, but for the id, which names the row.
    """
    table = table | {"q": ("eins", "zwei")}
    requests, ids, names, held = _read(
        SOURCES[kind](folder, table), {"request.params": {"top_p": 0.5}}
    )
    assert requests == [
        {"model": "run's", "top_p": 0.5, "messages": [{"role": "user", "content": f"Q: {word}"}]}
        for word in ("eins", "zwei")
    ]
    assert names.keys() == table.keys() - {"custom_id"}
    assert len(set(held.column_names)) == len(held.column_names)
    if kind in ("csv", "tsv"):
        for name in names:
            assert held[names[name]].to_pylist() == _texts(table)[name]
    if kind in ("parquet", "table"):
        for name in names:
            assert held[names[name]].type == pa.array(table[name]).type
    if "custom_id" in table and kind in ("jsonl", "dicts"):
        assert ids == [id_text(json.loads(json.dumps(v))) for v in table["custom_id"]]


@pytest.mark.parametrize("kind", SOURCES)
@settings(max_examples=examples(40), deadline=None)
@given(table=st.dictionaries(NAMES, st.tuples(*[TEXT] * 2), max_size=5), data=st.data())
def test_only_what_is_named_is_sent(kind, table, folder, data):
    """A column that --send names is a parameter and is carried; its neighbours are carried only."""
    table = {name.strip(): value for name, value in table.items()} | {"q": ("eins", "zwei")}
    free = sorted(table.keys() - {"messages", "stream", "stream_options", "extra_body"})
    named = data.draw(st.sampled_from(free))
    table[named] = ("a b", "c d") if named != "q" else table["q"]
    if named in ("logit_bias", *body.parameters.STRUCTURED):
        table[named] = ('{"a":1}', '{"b":2}')
    requests, _, names, held = _read(SOURCES[kind](folder, table), {"input.send": [named]})
    for request, value in zip(requests, table[named], strict=True):
        assert request.keys() == {"model", "messages", named}
        assert request[named] in (value, *([json.loads(value)] if value[0] == "{" else []))
        assert request["messages"][0]["content"].startswith("Q: ")
    assert names.keys() == table.keys() - {"custom_id"}
    if named in names:
        assert held[names[named]].to_pylist() == list(table[named])
