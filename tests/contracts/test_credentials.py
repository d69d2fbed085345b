"""The exam of credentials: against a fake, and over a source that is read in a thread."""

import asyncio
import threading

import pytest

from batchrun.adapters.http import keys as reading
from batchrun.adapters.http.keys import RenewableKey
from batchrun.core.text.redact import Redactor
from batchrun.errors import KeyUnavailableError
from batchrun.testing.credentials import FakeCredentials

GONE = KeyUnavailableError("the key file is gone")


class CredentialsContract:
    """What any credentials promise. ``made(keys)`` makes some whose source has these keys, the
    first of which is in use, and tells how often it was asked.
    """

    def made(self, keys):
        """Make some: the credentials, and a function that counts renewals."""
        raise NotImplementedError

    def test_another_key_counts_up(self):
        """A refused key is replaced, and the number of the key in use tells."""

        async def play():
            found, asked = self.made(["one", "two"])
            assert found.generation == 0
            assert await found.renew(0, proved=True) is True
            assert (found.generation, asked()) == (1, 1)

        asyncio.run(play())

    def test_a_late_refusal_of_an_old_key(self):
        """It is worth sending again, and no renewal."""

        async def play():
            found, asked = self.made(["one", "two", "three"])
            await found.renew(0, proved=False)
            for _ in range(3):
                assert await found.renew(0, proved=True) is True
            assert (found.generation, asked()) == (1, 1)

        asyncio.run(play())

    def test_the_same_key_again_is_no_other(self):
        """Then sending again is not worth it."""

        async def play():
            found, _ = self.made(["one", "one"])
            assert await found.renew(0, proved=True) is False
            assert found.generation == 0

        asyncio.run(play())

    def test_a_renewed_key_without_an_answer_is_the_last(self):
        """One that had an answer is renewed again."""

        async def play():
            found, asked = self.made(["one", "two", "three"])
            assert await found.renew(0, proved=False) is True
            assert await found.renew(1, proved=False) is False
            assert asked() == 1
            assert await found.renew(1, proved=True) is True
            assert (found.generation, asked()) == (2, 2)

        asyncio.run(play())

    def test_no_key_to_be_had(self):
        """The reason is raised."""

        async def play():
            found, _ = self.made(["one", GONE])
            with pytest.raises(KeyUnavailableError, match="gone"):
                await found.renew(0, proved=True)

        asyncio.run(play())


class TestFakeCredentials(CredentialsContract):
    def made(self, keys):
        """A fake with these keys."""
        fake = FakeCredentials(keys)
        return fake, lambda: fake.renewals


class _Source:
    """A source by script that can be held up."""

    renewable = True

    def __init__(self, keys):
        self.keys = list(keys)
        self.reads = 0
        self.go = threading.Event()
        self.go.set()

    def __str__(self):
        return "the script"

    def read(self, stop=lambda: False):
        self.reads += 1
        while not self.go.wait(0.01):
            if stop():
                raise KeyUnavailableError("given up")
        key = self.keys.pop(0)
        if isinstance(key, Exception):
            raise key
        return key


class TestRenewableKey(CredentialsContract):
    def made(self, keys):
        """The real one over a scripted source."""
        first, *rest = keys
        self.source = _Source(rest)
        self.events = []
        redactor = Redactor([first])
        add = redactor.add
        redactor.add = lambda secrets: (self.events.append(("known", *secrets)), add(secrets))
        found = RenewableKey(
            self.source,
            first,
            install=lambda key: self.events.append(("sent", key)),
            redactor=redactor,
            say=lambda text: self.events.append(("said", text)),
        )
        return found, lambda: self.source.reads

    def test_a_key_is_known_before_it_is_sent(self):
        """A server may repeat it in its very first reply; nobody is told the key."""

        async def play():
            found, _ = self.made(["key-one", "key-two"])
            await found.renew(0, proved=True)

        asyncio.run(play())
        assert self.events[:2] == [("known", "key-two"), ("sent", "key-two")]
        assert self.events[2][0] == "said" and "key-two" not in self.events[2][1]

    def test_one_renewal_for_all(self):
        """Everybody who asks meanwhile waits for it; one who is cancelled does not end it."""

        async def play():
            found, asked = self.made(["one", "two"])
            self.source.go.clear()
            asking = [asyncio.create_task(found.renew(0, proved=True)) for _ in range(20)]
            await asyncio.sleep(0.05)
            asking[0].cancel()
            await asyncio.sleep(0)
            self.source.go.set()
            rest = await asyncio.gather(*asking[1:])
            assert asking[0].cancelled() and rest == [True] * 19
            assert (found.generation, asked()) == (1, 1)

        asyncio.run(play())

    def test_a_source_without_another_key_is_not_asked_by_every_row(self, monkeypatch):
        """Within a second the answer would be the same."""

        async def play():
            found, asked = self.made(["one", "one", "two"])
            for _ in range(5):
                assert await found.renew(0, proved=True) is False
            assert asked() == 1
            monkeypatch.setattr(reading, "ANEW_S", 0.0)
            found._not_before_s = 0.0
            assert await found.renew(0, proved=True) is True

        asyncio.run(play())

    def test_closing_ends_a_renewal(self):
        """Nothing is left running, and whoever waited is told."""

        async def play():
            found, _ = self.made(["one", "two"])
            self.source.go.clear()
            asking = asyncio.create_task(found.renew(0, proved=True))
            await asyncio.sleep(0.05)
            await asyncio.wait_for(found.close(), 5)
            with pytest.raises(KeyUnavailableError, match="given up"):
                await asking

        asyncio.run(play())

    def test_a_failure_shows_no_key(self):
        """What the source complains of may hold the key in use."""

        async def play():
            found, _ = self.made(["key-one-of-all", KeyUnavailableError("not key-one-of-all")])
            with pytest.raises(KeyUnavailableError) as caught:
                await found.renew(0, proved=True)
            assert "key-one-of-all" not in str(caught.value)

        asyncio.run(play())
