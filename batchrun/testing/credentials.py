"""A fake of ``ports.Credentials``: keys by script."""

from __future__ import annotations

from collections.abc import Sequence


class FakeCredentials:
    """Returns the keys of a script, one per renewal; the key in use stays if the script repeats it,
    or has ended. An exception in the script is raised.
    """

    def __init__(self, keys: Sequence[str | Exception]) -> None:
        """The first key is in use."""
        self._keys = list(keys)
        self.key = self._keys.pop(0)
        self.generation = 0
        self.renewals = 0

    async def renew(self, used: int, *, proved: bool) -> bool:
        """See ``ports.Credentials``."""
        if used != self.generation:
            return True
        if (self.generation and not proved) or not self._keys:
            return False
        self.renewals += 1
        key = self._keys.pop(0)
        if isinstance(key, Exception):
            raise key
        if key == self.key:
            return False
        self.key = key
        self.generation += 1
        return True
