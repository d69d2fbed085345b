"""What a process of a fleet begins with, before its first lease on the limits (``quota.py``)."""

from __future__ import annotations

from dataclasses import replace

from batchrun.core.fleet.board import Place
from batchrun.core.settings.endpoint import Endpoint


def begun_by(endpoint: Endpoint, place: Place) -> Endpoint:
    """An endpoint whose concurrency, where it is to be found, begins with this place's part of the
    first window: all together begin as one process does.
    """
    if endpoint.bounds is None:
        return endpoint
    return replace(endpoint, concurrency=max(1, endpoint.concurrency // place.count))
