"""How a process finds the latest book of its fleet's limits."""

import random

import pytest

from batchrun.core.fleet import quota
from batchrun.core.fleet.quota import Limit
from batchrun.engine.pace.gate import EndpointGate
from batchrun.fleet.sharing import Sharing
from batchrun.testing.claims import FakeClaims
from batchrun.testing.virtual import VirtualClock, run_virtual


class Store(FakeClaims):
    """It counts what is read."""

    reads = 0

    def read(self, name):
        """See ``ports.ClaimStore``."""
        self.reads += 1
        return super().read(name)


@pytest.mark.parametrize("others", [0, 1, 2, 3, 7, 50, 1000])
def test_the_latest_book_is_found_in_few_steps(others):
    """However many others renewed since this process did: a thousand of them would otherwise read a
    thousand books each, every few seconds.
    """

    async def body():
        clock = VirtualClock()
        store = Store(clock.now_s)
        limits = (Limit("e", quota.RPM, 600.0),)

        gate = EndpointGate(concurrency=8, rpm=None, tpm=None, clock=clock, dice=random.Random(1))

        async def ask(question):
            return question()

        sharing = Sharing(
            store=store, worker="w", gates={"e": gate}, limits=limits, clock=clock, ask=ask
        )
        await sharing._latest()
        store.reads = 0
        book = quota.Book()
        for number in range(1, others + 1):
            book = quota.renewed(book, f"o{number % 5}", clock.now_s(), limits, {}, {})
            assert store.create(quota.record_name(number), book.as_bytes())
        await sharing._latest()
        assert sharing._number == others
        assert sharing._book == book
        assert store.reads <= 2 * others.bit_length() + 2  # one looks for changes

    run_virtual(body())
