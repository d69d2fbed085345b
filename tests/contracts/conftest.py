"""What the exams of the transport share: both ways in which it sends."""

import pytest

from batchrun.adapters.http import aiohttp_internals


@pytest.fixture(params=["direct", "plain"])
def way(request, monkeypatch):
    """The transport sends over aiohttp's connections, or by its documented names alone, as where
    its release is not known.
    """
    if request.param == "plain":

        async def differences(*_):
            return "as a test wants it"

        monkeypatch.setattr(aiohttp_internals, "differences", differences)
    return request.param
