"""Which failed row a fleet shows as the example of its class."""

from batchrun.views.fleet.together import first_examples


def test_it_is_the_first_row_wherever_it_is_known_from():
    """A row of a published shard is only in a worker's status, a later one in a log as well."""
    reported = {"invalid_row": {"row": 3, "message": "a"}, "timeout": {"row": 9, "message": "b"}}
    logged = {"invalid_row": {"row": 60, "message": "c"}, "timeout": {"row": 4, "message": "d"}}
    for several in ([reported, logged], [logged, reported]):
        found = first_examples(several)
        assert {name: one["row"] for name, one in found.items()} == {"invalid_row": 3, "timeout": 4}
    assert first_examples([]) == {}
