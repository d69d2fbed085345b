"""Large replies on virtual time: what waits for a slow disk is bounded."""

import pytest

from batchrun.engine.session.row_window import OPEN_BYTES_MAX
from batchrun.records import Outcome
from batchrun.testing.fakes import FakeJournal, FakeTransport
from batchrun.testing.samples import ok
from batchrun.testing.virtual import run_virtual
from tests.harness.rig import Rig

REPLY = ok("x" * 2**22)


class Waiting(FakeJournal):
    """A journal that takes a minute for a group, and notes how much waited in it at most."""

    def __init__(self):
        super().__init__(commit_s=60)
        self.most = 0

    def post(self, entry, then=None):
        """See ``FakeJournal``."""
        super().post(entry, then)
        held = (e.response for e in self.pending if isinstance(e, Outcome))
        self.most = max(self.most, sum(map(len, held)))


@pytest.mark.slow
def test_replies_that_wait_for_the_disk_hold_the_input_back():
    """No more of them are in memory than open rows may take, and the rows that were out."""
    journal = Waiting()

    async def session():
        rig = Rig(200, journal=journal, transport=FakeTransport(lambda *_: REPLY), concurrency=4)
        await rig.run()
        return rig

    rig = run_virtual(session())
    assert len(rig.outcomes) == 200 and all(o.ok for o in rig.outcomes.values())
    sent = 4 + 2 * 4 + 8
    assert OPEN_BYTES_MAX / 2 < journal.most <= OPEN_BYTES_MAX + sent * len(REPLY.body)
