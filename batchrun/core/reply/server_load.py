"""What an inference server reports of its load at ``/metrics``, in Prometheus' text format.

The names are those of vLLM (vllm/v1/metrics/loggers.py), SGLang (srt/metrics/collector.py),
llama.cpp (tools/server), Text Generation Inference and Text Embeddings Inference (router/src).
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

RUNNING, WAITING = "running", "waiting"
NAMES = {
    "vllm:num_requests_running": RUNNING,
    "vllm:num_requests_waiting": WAITING,
    "sglang:num_running_reqs": RUNNING,
    "sglang:num_queue_reqs": WAITING,
    "llamacpp:requests_processing": RUNNING,
    "llamacpp:requests_deferred": WAITING,
    "tgi_batch_current_size": RUNNING,
    "tgi_queue_size": WAITING,
    "te_queue_size": WAITING,
}
"""What each gauge counts. Some collectors write an underscore for the colon."""

_COUNTS = {name.replace(":", "_"): what for name, what in NAMES.items()}
_LINE = re.compile(
    rb"^(" + b"|".join(name.replace(":", "[:_]").encode() for name in NAMES) + rb")"
    rb"(?:\{[^\n]*\})?[ \t]+([^\s{}]{1,40})(?=\s|$)",
    re.MULTILINE,
)
COUNT_MAX = 1e9
"""No server has more requests than this; what claims to has no such gauge."""


class Load(NamedTuple):
    """Requests that a server runs, and lets wait. None: it does not report that."""

    running: int | None
    waiting: int


def read_load(text: bytes) -> Load | None:
    """The load that a metrics page reports, summed over engines and models; None where it does not
    say how many requests wait. A figure that cannot be true makes its gauge unknown.
    """
    sums: dict[str, float] = {}
    for name, written in _LINE.findall(text):
        what = _COUNTS[name.decode().replace(":", "_")]
        try:
            value = float(written)
        except ValueError:
            value = math.nan
        sums[what] = sums.get(what, 0.0) + (value if 0 <= value <= COUNT_MAX else math.nan)
    waiting, running = sums.get(WAITING, math.nan), sums.get(RUNNING, math.nan)
    if math.isnan(waiting):
        return None
    return Load(None if math.isnan(running) else round(running), round(waiting))
