"""What `batchrun ctl` asks of a fleet: records in a chain, and the limits that they lead to."""

import pytest

from batchrun.core.fleet import controls
from batchrun.core.fleet.controls import Control
from batchrun.core.fleet.quota import Limit
from batchrun.errors import UsageError
from batchrun.testing.claims import FakeClaims


def control(do="set", number=1, **values):
    """A change, made at some time."""
    return Control(number, do, values, "2026-01-01T00:00:00.000Z", f"{do}-{number}")


@pytest.fixture
def store():
    """Records in memory."""
    return FakeClaims(lambda: 0.0)


def test_a_change_is_read_back_as_it_was_made():
    """Numbers, lifted limits and endpoints' names included."""
    made = control(rpm=None, concurrency=20, **{"a.b.tpm": 1.5})
    assert controls.parse(1, made.as_bytes()) == made
    assert controls.parse(7, control("drain", 7).as_bytes()) == control("drain", 7)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"do": "dance", "values": {}, "at": "x"}',
        b'{"do": "set", "values": {"rpm": -1}, "at": "x"}',
        b'{"do": "set", "values": {"colour": 1}, "at": "x"}',
        b'{"do": "pause", "at": "x"}',
    ],
)
def test_anything_else_is_refused_by_name(content):
    """With the record that is wrong."""
    with pytest.raises(ValueError, match="controls/00000004"):
        controls.parse(4, content)


def test_two_that_ask_at_once_come_one_after_the_other(store):
    """Neither is lost, and both are read in the same order by everybody."""
    first = controls.added(store, control(rpm=60)._replace(id="a"))
    second = controls.added(store, control("pause")._replace(id="b"))
    assert (first.number, second.number) == (1, 2)
    assert controls.read_after(store, 0) == [first, second]
    assert controls.read_after(store, 1) == [second]
    assert controls.read_after(store, 2) == []


def test_a_record_that_came_in_between_is_not_replaced():
    """Somebody else creates the number that was read as the next one."""

    class Raced(FakeClaims):
        """Another one was faster, the first time that a record is created."""

        def create(self, name, content):
            if not self.names("controls"):
                super().create(name, control("pause").as_bytes())
            return super().create(name, content)

    raced = Raced(lambda: 0.0)
    made = controls.added(raced, control("drain"))
    assert made.number == 2
    assert [each.do for each in controls.read_after(raced, 0)] == ["pause", "drain"]


def test_a_fleet_that_ended_takes_no_more():
    """Its folder is gone: nothing is created, and nothing is there."""
    gone = FakeClaims(lambda: 0.0)
    gone.create = lambda _name, _content: False
    assert controls.added(gone, control("drain")) is None


@pytest.mark.parametrize(
    ("asked", "state"),
    [
        ((), "running"),
        (("set",), "running"),
        (("pause",), "paused"),
        (("pause", "set"), "paused"),
        (("pause", "resume"), "running"),
        (("drain",), "stopping"),
        (("pause", "drain"), "stopping"),
        (("drain", "resume"), "stopping"),
    ],
)
def test_the_latest_that_was_asked_for_holds(asked, state):
    """But for a drain, which nothing undoes."""
    assert controls.state_after(control(do) for do in asked) == state


LIMITS = (Limit("a", "concurrency", 8.0), Limit("b", "concurrency", 8.0), Limit("a", "rpm", 60.0))


@pytest.mark.parametrize(
    ("values", "totals"),
    [
        ({"rpm": 600}, {"rpm:a": 600, "rpm:b": 600, "concurrency:a": 8, "concurrency:b": 8}),
        ({"rpm": None}, {"concurrency:a": 8, "concurrency:b": 8}),
        ({"b.concurrency": 2}, {"rpm:a": 60, "concurrency:a": 8, "concurrency:b": 2}),
        ({"c.rpm": 2}, {"rpm:a": 60, "concurrency:a": 8, "concurrency:b": 8}),
        (
            {"a.tpm": 9.5},
            {"rpm:a": 60, "tpm:a": 9.5, "concurrency:a": 8, "concurrency:b": 8},
        ),
        ({"max_cost": 1}, {"rpm:a": 60, "concurrency:a": 8, "concurrency:b": 8}),
    ],
)
def test_a_change_makes_the_limits_of_the_whole(values, totals):
    """Of all endpoints, or of one; others stay as they are."""
    found = controls.limits_under(LIMITS, control(**values))
    assert {limit.name: limit.total for limit in found} == totals


def test_only_a_change_of_concurrency_fixes_it():
    """Of the endpoint that it names, or of all."""
    assert controls.fixes_concurrency(control(concurrency=3), "a")
    assert controls.fixes_concurrency(control(**{"a.concurrency": 3}), "a")
    assert not controls.fixes_concurrency(control(**{"a.concurrency": 3}), "b")
    assert not controls.fixes_concurrency(control(rpm=3), "a")


@pytest.mark.parametrize(
    ("values", "said"),
    [({"max_cost": 5.0}, "max_cost cannot be changed"), ({"c.rpm": 5.0}, "there are a, b")],
)
def test_what_processes_cannot_change_together_is_refused(values, said):
    """With the reason, before anything is written."""
    with pytest.raises(UsageError, match=said):
        controls.require_settable(values, ["a", "b"])
    controls.require_settable({"rpm": 1.0, "b.tpm": None}, ["a", "b"])


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (control(rpm=3), {"rpm": 3}),
        (control("pause"), {"paused": True}),
        (control("resume"), {"paused": False}),
        (control("drain"), {"drain": True}),
    ],
)
def test_the_summary_tells_of_a_change_as_of_one_process(made, told):
    """When, and what was set."""
    assert made.as_history() == {"at": "2026-01-01T00:00:00.000Z", "set": told}
