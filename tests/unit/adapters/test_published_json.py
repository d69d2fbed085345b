"""What is recorded of published parts survives JSON."""

import json

import pytest

from batchrun.adapters.journal import published_json
from batchrun.adapters.journal.state_db import KeptRequests, Published
from batchrun.adapters.storage.store import FileMark
from batchrun.records import Position, ShardState

STATE = ShardState(3, 50, b"\x00\xff" * 16, Position(1, 2**40, 7), 2, complete=True)


@pytest.mark.parametrize(
    "published",
    [
        Published(STATE, "a" * 64, "b" * 64, {"groups": [["e", None, None, {"rows_ok": 1}]]}),
        Published(
            STATE,
            "a",
            "b",
            {"errors": {}},
            FileMark(10, "footer:00ff"),
            FileMark(11, "footer:1"),
            KeptRequests("c", 5, 9, "footer:2"),
        ),
        Published(STATE, "a", "b", {}, None, None, KeptRequests("c", 5)),
    ],
)
def test_a_record_reads_back(published):
    """With marks or without, with requests or without."""
    text = json.dumps(published_json.to_json(published))
    assert published_json.from_json(json.loads(text)) == published


@pytest.mark.parametrize("value", [{}, {"shard": 1}, {"shard": None}])
def test_another_object_is_refused(value):
    """A missing or wrong field is an error, not a record with a hole."""
    with pytest.raises(ValueError, match="no record of published parts"):
        published_json.from_json(value)
