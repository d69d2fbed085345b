"""What a process of a fleet begins with, before its first lease on the limits (``quota.py``)."""

from __future__ import annotations

from dataclasses import replace

from batchrun.core.fleet.board import Place
from batchrun.core.settings.endpoint import Endpoint


def begun_by(endpoint: Endpoint, place: Place) -> Endpoint:
    """The endpoint with this place's part of the first window, if its concurrency is automatic.
    Together, all places start with the window of a single process.
    """
    if endpoint.bounds is None:
        return endpoint
    return replace(endpoint, concurrency=max(1, endpoint.concurrency // place.count))
