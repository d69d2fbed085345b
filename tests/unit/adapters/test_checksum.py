"""The checksum of the checkpoint is CRC-32, whoever computes it."""

import importlib
import random
import sys
import zlib

import pytest

from batchrun.adapters.journal import checksum


@pytest.mark.parametrize("installed", [True, False])
def test_the_numbers_are_zlibs(monkeypatch, installed):
    """With ISA-L and without it, of bytes and views, begun anew and continued."""
    if not installed:
        monkeypatch.setitem(sys.modules, "isal", None)
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    module = importlib.reload(checksum)
    try:
        assert (module.crc32 is zlib.crc32) != installed
        dice = random.Random(7)
        for size in (0, 1, 9, 17, 255, 4096, 70_001):
            data = dice.randbytes(size)
            begun = dice.randrange(2**32)
            assert module.crc32(data) == zlib.crc32(data)
            assert module.crc32(memoryview(data)[size // 3 :], begun) == zlib.crc32(
                data[size // 3 :], begun
            )
    finally:
        monkeypatch.undo()
        importlib.reload(checksum)
