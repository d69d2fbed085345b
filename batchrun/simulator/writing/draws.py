"""The one source of chance: numbers drawn from the seed and the request, never from a generator.

So the n-th time a request is sent, it behaves the same in every run with the same seed, whatever
arrived before it and in any order.
"""

from dataclasses import dataclass
from hashlib import blake2b

_BITS_53 = 2.0**-53  # a double holds 53 bits, so these floats are uniform in [0, 1)


def seed_key(seed: int) -> bytes:
    """The hash key of a seed of 64 bits, signed."""
    return seed.to_bytes(8, "big", signed=True)


@dataclass(frozen=True, slots=True)
class Draws:
    """What is decided by chance in one exchange. `fault` and `latency` are uniform in [0, 1)."""

    fault: float
    latency: float
    completion_id: str


def draw_exchange(key: bytes, digest: bytes, asked_before: int) -> Draws:
    """The draws of the asking that follows `asked_before` others of the request `digest`."""
    chance = blake2b(
        digest + asked_before.to_bytes(8, "big"), key=key, digest_size=32, person=b"exchange"
    ).digest()
    return Draws(
        fault=(int.from_bytes(chance[:8], "big") >> 11) * _BITS_53,
        latency=(int.from_bytes(chance[8:16], "big") >> 11) * _BITS_53,
        completion_id=f"chatcmpl-{chance[16:].hex()}",
    )


def draw_choice(key: bytes, digest: bytes, index: int) -> tuple[int, int]:
    """Two numbers of 32 bits for the text of one choice; they do not depend on the asking."""
    chance = blake2b(
        digest + index.to_bytes(2, "big"), key=key, digest_size=8, person=b"choice"
    ).digest()
    return int.from_bytes(chance[:4], "big"), int.from_bytes(chance[4:], "big")


class Chance:
    """Numbers one after another for one purpose in one choice of an answer.

    They do not depend on the asking: the same request, choice and purpose give the same numbers.
    """

    __slots__ = ("_about", "_blocks", "_key", "_left", "_purpose")

    def __init__(self, key: bytes, digest: bytes, index: int, purpose: bytes) -> None:
        """`purpose` has at most 16 bytes."""
        self._key, self._about, self._purpose = key, digest + index.to_bytes(2, "big"), purpose
        self._blocks = 0
        self._left = b""

    def number(self) -> int:
        """The next 32 bits."""
        if not self._left:
            self._left = blake2b(
                self._about + self._blocks.to_bytes(8, "big"), key=self._key, person=self._purpose
            ).digest()
            self._blocks += 1
        found, self._left = self._left[:4], self._left[4:]
        return int.from_bytes(found, "big")

    def below(self, limit: int) -> int:
        """A number from 0 to below `limit`; 0 where there is none."""
        return self.number() % max(limit, 1)

    def share(self) -> float:
        """A number in [0, 1)."""
        return self.number() * 2.0**-32
