"""The behaviour of the simulated endpoint: all options, checked when they are built."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from batchrun.simulator import faults
from batchrun.simulator.capacity import Capacity
from batchrun.simulator.changes import Change
from batchrun.simulator.chat import CHARGES
from batchrun.simulator.completion import Manner
from batchrun.simulator.latency import Latency
from batchrun.simulator.limit_headers import DIALECTS
from batchrun.simulator.limits import COUNTINGS
from batchrun.simulator.rejections import INJECTED

LOCALHOST = "127.0.0.1"

# Smallest and largest value per option. Nothing a dry run needs lies outside; a typo often does.
RANGES: Mapping[str, tuple[float, float]] = {
    "port": (0, 65535),
    "seed": (-(2**63), 2**63 - 1),
    "reply_bytes": (1, 2**30),
    "rpm": (0.001, 1e9),
    "tpm": (0.001, 1e12),
    "rpm_window_s": (0.001, 86400),
    "tpm_window_s": (0.001, 86400),
    "fail_first": (0, 1_000_000),
    "retry_after_s": (0, 86400),
    "refusal_rate": (0, 1),
}
REASONING_FIELDS = ("reasoning_content", "reasoning")
"""The names that servers have for the text of the reasoning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """The endpoint's behaviour; the default answers everything at once and never fails.

    Rates are shares of all requests, between 0 and 1, and add up to at most 1. Raises ValueError
    for options that cannot be simulated.
    """

    host: str = LOCALHOST  # loopback only: the endpoint has no protection
    port: int = 0  # 0 = any free one
    seed: int = 0
    models: tuple[str, ...] = ()  # empty = any model is served
    api_key: str | None = field(default=None, repr=False)

    reply_bytes: int | None = None  # size of an answer's content; None = 40 to 120 tokens
    refusal_rate: float = 0.0  # share of the requests that the model refuses, at every asking
    reasoning_field: str | None = None  # one of REASONING_FIELDS; None = its text is not told
    latency: Latency | None = None  # None = the capacity's own; without a capacity no time
    capacity: Capacity | None = None  # what it can do at once; None = anything
    metrics: bool = True  # whether /metrics tells how busy it is

    rpm: float | None = None  # requests per minute
    tpm: float | None = None  # tokens per minute
    charge: str = "sum"  # one of chat.CHARGES: the tokens that count for a request
    counting: str = "bucket"  # one of limits.COUNTINGS: how both limits are enforced
    rpm_window_s: float | None = None  # what may come at once, in seconds' worth of the rate;
    tpm_window_s: float | None = None  # None = 1 for a bucket, 60 for a window
    changes: tuple[Change, ...] = ()  # of the capacity and the limits, as time goes by
    bare_429: bool = False  # every 429 without Retry-After, and without a reason
    limit_headers: str = "openai"  # one of limit_headers.DIALECTS: how they are told

    error_rates: Mapping[str, float] = field(default_factory=dict)  # keys of rejections.INJECTED
    drop_rate: float = 0.0
    cut_rate: float = 0.0
    stall_rate: float = 0.0
    garbage_rate: float = 0.0
    error_200_rate: float = 0.0
    stream_end_rate: float = 0.0  # this and the next four happen to streams alone
    stream_stall_rate: float = 0.0
    stream_error_rate: float = 0.0
    no_done_rate: float = 0.0
    odd_framing_rate: float = 0.0
    invalid_rate: float = 0.0  # of answers that are to be JSON, or a tool call
    truncated_rate: float = 0.0
    empty_rate: float = 0.0
    fail_first: int = 0  # the first so many askings of each request get status 500
    retry_after_s: float = 0.2  # in the injected 429

    detail: bool = True  # count per request; a million of them take about 180 MB
    log_path: Path | None = None
    clock: Callable[[], float] = field(default=time.time, repr=False)  # of `created`, in seconds

    def __post_init__(self) -> None:
        if not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} is not a loopback address; the simulator answers anyone who "
                f"can reach it, so it listens on this machine only: use {LOCALHOST}"
            )
        if not all(self.models):
            raise ValueError("a model name is empty")
        if self.api_key == "":
            raise ValueError("the API key is empty; leave it out to accept any")
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # NaN is in no range
                raise ValueError(f"{name} must be between {least} and {most}, not {value}")
        if self.reasoning_field not in (None, *REASONING_FIELDS):
            raise ValueError(
                f"reasoning_field must be one of {', '.join(REASONING_FIELDS)}, "
                f"not {self.reasoning_field!r}"
            )
        for name, words in (
            ("limit_headers", DIALECTS),
            ("charge", CHARGES),
            ("counting", COUNTINGS),
        ):
            if getattr(self, name) not in words:
                raise ValueError(
                    f"{name} must be one of {', '.join(words)}, not {getattr(self, name)!r}"
                )
        for name in self.error_rates:
            if name not in INJECTED:
                raise ValueError(f"no error is called {name!r}; there are {', '.join(INJECTED)}")
        faults.require_rates(self.fault_rates().items())

    def manner(self) -> Manner:
        """What the answers depend on."""
        return Manner(self.reply_bytes, self.refusal_rate, self.reasoning_field)

    def fault_rates(self) -> dict[str, float]:
        """All rates in one table, by the names of `faults.FAULTS`."""
        return {
            **self.error_rates,
            faults.DROP: self.drop_rate,
            faults.CUT: self.cut_rate,
            faults.STALL: self.stall_rate,
            faults.GARBAGE: self.garbage_rate,
            faults.ERROR_200: self.error_200_rate,
            faults.STREAM_END: self.stream_end_rate,
            faults.STREAM_STALL: self.stream_stall_rate,
            faults.STREAM_ERROR: self.stream_error_rate,
            faults.NO_DONE: self.no_done_rate,
            faults.ODD_FRAMING: self.odd_framing_rate,
            faults.INVALID: self.invalid_rate,
            faults.TRUNCATED: self.truncated_rate,
            faults.EMPTY: self.empty_rate,
        }


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
