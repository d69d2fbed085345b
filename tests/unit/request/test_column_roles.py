"""What columns are for: sent, carried, id; with and without a prompt, in tables and JSON rows."""

import pytest

from batchrun.core.request.body import split
from batchrun.core.request.column_roles import Roles, SeenColumns, notice
from batchrun.errors import RowError

OWN = [{"role": "user", "content": "own"}]
ROW = {"custom_id": 7, "messages": OWN, "model": "x", "user": "u", "extra_body": {"a": 1}, "t": 1}


@pytest.mark.parametrize(
    ("kind", "more", "body", "carried"),
    [
        ("jsonl", {"prompted": True}, {}, ROW.keys() - {"custom_id"}),
        ("jsonl", {"prompted": True, "send": "all"}, {"model": "x", "user": "u", "a": 1},
         ROW.keys() - {"custom_id"}),
        ("jsonl", {"prompted": True, "send": ("t",)}, {"t": 1}, ROW.keys() - {"custom_id"}),
        ("jsonl", {"prompted": True, "identity": "t"}, {}, ROW.keys()),
        ("jsonl", {"prompted": False}, {"messages": OWN, "model": "x", "user": "u", "a": 1}, {"t"}),
        ("parquet", {"prompted": False}, {"messages": OWN, "model": "x", "a": 1}, {"user", "t"}),
        ("csv", {"prompted": False, "send": ("user",)}, {"messages": OWN, "user": "u"},
         {"model", "user", "extra_body", "t"}),
        ("jsonl", {"prompted": False, "send": "none"}, {"messages": OWN},
         {"model", "user", "extra_body", "t"}),
        ("jsonl", {"prompted": False, "identity": "user"},
         {"messages": OWN, "model": "x", "a": 1}, {"custom_id", "user", "t"}),
    ],
)  # fmt: skip
def test_a_row_is_told_apart(kind, more, body, carried):
    """Sent is what the settings say, and nothing is lost: what is not only sent is carried."""
    made = Roles(kind, **more)(dict(ROW))
    assert made.problem is None and made.body == body
    assert made.carried.keys() == set(carried)
    identity = more.get("identity", "custom_id")
    assert made.custom_id == (
        ROW[identity] if isinstance(ROW[identity], str) else str(ROW[identity])
    )


def test_json_rows_without_settings_are_told_apart_as_by_split():
    """The plainest case has one function of its own, with the same result."""
    assert Roles("jsonl", prompted=False)(dict(ROW)) == split(dict(ROW))


@pytest.mark.parametrize(
    ("names", "more", "consumed", "sent"),
    [
        (["custom_id", "body", "n"], {"prompted": True}, {"custom_id"}, ()),
        (["custom_id", "n"], {"prompted": True, "identity": "n"}, set(), ()),
        (["n", "t"], {"prompted": True, "send": "all"}, set(), ("n",)),
        (["messages", "n", "user", "t"], {"prompted": False}, {"messages", "n"}, ("n",)),
        (["messages", "n", "t"], {"prompted": False, "send": ("t",)}, {"messages"}, ("t",)),
        (["custom_id", "body", "url", "n"], {"prompted": False}, {"custom_id", "body", "url"}, ()),
    ],
)
def test_columns_of_a_table(names, more, consumed, sent):
    """Which are read as parameters and not carried, and which are sent in the end."""
    roles = Roles("parquet", **more)
    assert roles.consumed(names) == consumed
    assert roles.sent_of(names) == sent


def test_what_cannot_be_told_apart_has_a_problem():
    """A value that cannot be shown, or no object where one is needed; the row is carried."""
    broken = RowError("it cannot be shown")
    for fields, more in (
        ({"t": broken}, {"send": ("t",)}),
        ({"t": broken}, {"identity": "t"}),
        ({"extra_body": 5}, {"send": ("extra_body",)}),
        ({"tools": "{"}, {"send": ("tools",)}),
        ({"t": b"x"}, {"send": ("t",)}),
    ):
        made = Roles("parquet", prompted=True, **more)(fields)
        assert made.body is None and made.problem and made.carried == fields


def test_messages_come_from_the_prompt_alone():
    """Neither all, nor what stands under extra_body, replaces them."""
    row = {"messages": OWN, "extra_body": {"messages": OWN, "stream": True, "top_k": 1}}
    assert Roles("jsonl", prompted=True, send="all")(row).body == {"top_k": 1}


def test_what_was_seen_of_json_rows():
    """Columns in order of appearance; bodies of Batch lines, messages and nulls are none."""
    seen = SeenColumns()
    for row in ({"messages": OWN, "seed": 1}, {"body": {"n": 1}, "n": 2}, ROW, {"t": 1}):
        seen.note(row, split(row), prompted=False)
    assert seen.names() == ("seed", "model", "user", "extra_body")


def test_the_notice():
    """It names the columns, the model that is overridden, and the way out."""
    text = notice(["model", "n"], ["t"], "m")
    for word in ("model, n;", "carried: t.", "'m'", "--send none"):
        assert word in text
    assert "none; carried: t" in notice([], ["t"], "m")
    assert "and 10 more" in notice([], [str(n) for n in range(50)], None)
