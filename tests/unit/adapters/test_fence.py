"""Whether the journal is still this process's is asked before a group is written, and after."""

import pytest

from batchrun.adapters.journal.journal import Journal
from batchrun.errors import StorageError
from batchrun.testing.samples import answered


@pytest.mark.parametrize("sound", [0, 1])
def test_a_group_is_not_durable_if_the_lock_was_lost_meanwhile(tmp_path, sound):
    """The disk may have stalled for so long that others took over what it shows now: whoever
    wrote the group must not report it as done.
    """
    asked = []

    def fence():
        asked.append(1)
        if len(asked) > sound:
            message = "taken over"
            raise StorageError(message)

    journal = Journal(tmp_path, 10)
    journal.fence = fence
    with pytest.raises(StorageError, match="taken over"):
        journal.write([answered(3)])
    assert (0 in journal.logs) is bool(sound)
    journal.close()
