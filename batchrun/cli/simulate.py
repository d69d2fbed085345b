"""`batchrun simulate`: the simulated endpoint as a process of its own."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

import click

from batchrun.cli.flags.help_pages import Flag, Grouped
from batchrun.cli.paths import PATH

if TYPE_CHECKING:
    from batchrun.simulator.capacity import Capacity
    from batchrun.simulator.changes import Change
    from batchrun.simulator.latency import Latency
    from batchrun.simulator.plan import SimulatorOptions


T = TypeVar("T")

_EXAMPLES = (
    "batchrun simulate --port 8000",
    "batchrun simulate --port 8000 --latency lognormal:1:0.5 --error 429=0.1",
    "batchrun simulate --port 8000 --capacity slots:8:16 --rpm 600",
)


class StartError(click.ClickException):
    """The server could not be started: exit code 2."""

    exit_code = 2


class _Flags(TypedDict):
    """The flags that are fields of SimulatorOptions, by its names."""

    host: str
    port: int
    seed: int
    models: tuple[str, ...]
    api_key: str | None
    reply_bytes: int | None
    refusal_rate: float
    reasoning_field: str | None
    latency: "Latency | None"
    capacity: "Capacity | None"
    metrics: bool
    rpm: float | None
    tpm: float | None
    charge: str
    counting: str
    rpm_window_s: float | None
    tpm_window_s: float | None
    changes: "tuple[Change, ...]"
    bare_429: bool
    limit_headers: str
    error_rates: Mapping[str, float]
    drop_rate: float
    cut_rate: float
    stall_rate: float
    garbage_rate: float
    error_200_rate: float
    stream_end_rate: float
    stream_stall_rate: float
    stream_error_rate: float
    no_done_rate: float
    odd_framing_rate: float
    invalid_rate: float
    truncated_rate: float
    empty_rate: float
    fail_first: int
    retry_after_s: float
    detail: bool
    log_path: Path | None


def _read_latency(
    _context: click.Context, _param: click.Parameter, value: str | None
) -> "Latency | None":
    from batchrun.simulator.latency import parse_latency

    return None if value is None else _read(parse_latency, value)


def _read_capacity(
    _context: click.Context, _param: click.Parameter, value: str | None
) -> "Capacity | None":
    from batchrun.simulator.capacity import parse_capacity

    return None if value is None else _read(parse_capacity, value)


def _read_changes(
    _context: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> "tuple[Change, ...]":
    from batchrun.simulator.changes import parse_change

    return tuple(_read(parse_change, value) for value in values)


def _read(parse: Callable[[str], T], value: str) -> T:
    try:
        return parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _read_error_rates(
    _context: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    rates = {}
    for value in values:
        name, _, rate = value.partition("=")
        try:
            rates[name] = float(rate)
        except ValueError:
            raise click.BadParameter(f"{value!r} is not STATUS=RATE, such as 503=0.05") from None
    return rates


def _read_models(
    _context: click.Context, _param: click.Parameter, value: str | None
) -> tuple[str, ...]:
    return () if value is None else tuple(name.strip() for name in value.split(","))


_server_flag = partial(click.option, cls=Flag, group="Server")
_answer_flag = partial(click.option, cls=Flag, group="Answers")
_pace_flag = partial(click.option, cls=Flag, group="Speed and limits")
_fault_flag = partial(click.option, cls=Flag, group="Faults (RATE is a share from 0 to 1)")


@click.command("simulate", cls=Grouped, examples=_EXAMPLES)
@_server_flag(
    "--host", default="127.0.0.1", show_default=True, help="Loopback address to listen on."
)
@_server_flag(
    "--port", type=int, default=0, show_default=True, help="Port to listen on; 0 picks a free one."
)
@_answer_flag("--seed", type=int, default=0, show_default=True, help="Seed for answers and faults.")
@_server_flag(
    "--models", metavar="A,B", callback=_read_models, help="Models to serve [default: any]."
)
@_server_flag("--api-key", metavar="KEY", help="Require this key [default: none].")
@_answer_flag(
    "--reply-bytes",
    type=int,
    metavar="N",
    help="Bytes of content per answer [default: 40 to 120 tokens].",
)
@_answer_flag(
    "--refusal",
    "refusal_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of requests to refuse, in the message's field `refusal`.",
)
@_answer_flag(
    "--reasoning-field",
    metavar="NAME",
    help="Send reasoning text in this field: reasoning_content or reasoning [default: none sent].",
)
@_pace_flag(
    "--latency",
    metavar="MODEL",
    callback=_read_latency,
    help="Seconds per answer: fixed:S, lognormal:MEDIAN:SIGMA or per-token:BASE:S_PER_TOKEN "
    "[default: fixed:0; fixed:0.1 with slots and knee of --capacity].",
)
@_pace_flag(
    "--capacity",
    metavar="MODEL",
    callback=_read_capacity,
    help="Behave like a busy server. slots:K:Q serves K requests, queues Q and answers 429 beyond. "
    "knee:N:P slows down with power P past N requests. batching:T0:C:KV takes T0 + C * (running "
    "requests) ms per token and preempts beyond KV tokens of cache [default: no limit].",
)
@_pace_flag(
    "--change",
    "changes",
    multiple=True,
    metavar="S:NAME=VALUE",
    callback=_read_changes,
    help="Change capacity, rpm or tpm S seconds after the first request, such as 30:rpm=600 or "
    "60:capacity=slots:2:100; `none` lifts the limit; repeatable.",
)
@_server_flag(
    "--metrics/--no-metrics",
    default=True,
    show_default=True,
    help="Report the load at /metrics, under the names that vLLM uses.",
)
@_pace_flag("--rpm", type=float, metavar="N", help="Requests per minute to allow.")
@_pace_flag("--tpm", type=float, metavar="N", help="Tokens per minute to allow.")
@_pace_flag(
    "--charge",
    default="sum",
    show_default=True,
    metavar="RULE",
    help="Tokens that a request counts for: sum (prompt plus max_tokens), max (the larger one), "
    "input (the prompt) or real (prompt plus answer).",
)
@_pace_flag(
    "--counting",
    default="bucket",
    show_default=True,
    metavar="RULE",
    help="How limits are enforced: bucket (refills continuously), sliding (any window) or fixed (a "
    "new count per window).",
)
@_pace_flag(
    "--rpm-window",
    "rpm_window_s",
    type=float,
    metavar="S",
    help="Burst of requests, in seconds of --rpm [default: 1; 60 with sliding and fixed].",
)
@_pace_flag(
    "--tpm-window",
    "tpm_window_s",
    type=float,
    metavar="S",
    help="Burst of tokens, in seconds of --tpm [default: 1; 60 with sliding and fixed].",
)
@_pace_flag(
    "--bare-429",
    is_flag=True,
    help="Send 429s without Retry-After and without a reason; for no limit headers either, add "
    "--limit-headers none.",
)
@_pace_flag(
    "--limit-headers",
    default="openai",
    metavar="NAME",
    show_default=True,
    help="Report limits in the headers of this server: openai, azure, groq, cerebras, mistral, "
    "together, anthropic, openrouter, ietf (its draft), or none.",
)
@_fault_flag(
    "--error",
    "error_rates",
    multiple=True,
    metavar="STATUS=RATE",
    callback=_read_error_rates,
    help="Share of requests to answer with this error, a status or another name; repeatable.",
)
@_fault_flag(
    "--retry-after",
    "retry_after_s",
    type=float,
    default=0.2,
    metavar="S",
    show_default=True,
    help="Seconds in the Retry-After of the 429s that --error causes.",
)
@_fault_flag(
    "--fail-first",
    type=int,
    default=0,
    metavar="N",
    show_default=True,
    help="Answer the first N attempts of each request with status 500.",
)
@_fault_flag(
    "--drop",
    "drop_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of requests to close the connection on, without an answer.",
)
@_fault_flag(
    "--cut",
    "cut_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of requests to close the connection on, half-way through the body.",
)
@_fault_flag(
    "--stall",
    "stall_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of requests never to answer.",
)
@_fault_flag(
    "--garbage",
    "garbage_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of requests to answer with status 200 and an HTML page.",
)
@_fault_flag(
    "--error-200",
    "error_200_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of requests to answer with status 200 and an error in the body.",
)
@_fault_flag(
    "--stream-end",
    "stream_end_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of streams to end cleanly after half of their chunks.",
)
@_fault_flag(
    "--stream-stall",
    "stream_stall_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of streams to stall half-way.",
)
@_fault_flag(
    "--stream-error",
    "stream_error_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of streams to end half-way with an error event.",
)
@_fault_flag(
    "--no-done",
    "no_done_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of streams to send without the final [DONE].",
)
@_fault_flag(
    "--odd-framing",
    "odd_framing_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of streams to send with CRLF, comments, ids and multi-line data.",
)
@_answer_flag(
    "--invalid",
    "invalid_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of JSON and tool-call requests to answer with something else.",
)
@_answer_flag(
    "--truncated",
    "truncated_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of answers to cut off half-way, with finish_reason `length`.",
)
@_answer_flag(
    "--empty",
    "empty_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Share of requests to answer without content.",
)
@_server_flag(
    "--detail/--no-detail",
    default=True,
    show_default=True,
    help="Keep counts per request for /stats (about 180 MB per million requests).",
)
@_server_flag(
    "--log",
    "log_path",
    type=PATH,
    callback=lambda _ctx, _param, value: value and Path(value),
    metavar="FILE",
    help="Append one JSON line per exchange to this file.",
)
@_server_flag(
    "--json", "as_json", is_flag=True, help="Print the address as one JSON object once ready."
)
def command(*, as_json: bool, **flags: Unpack[_Flags]) -> None:
    """Serve a simulated OpenAI-compatible endpoint on this machine.

    The same request gets the same answer, streamed or not, and with the same --seed the same
    faults. A stream starts after the base of the latency and continues at its pace per token.
    /stats reports all requests (?detail=1: one by one).

    The simulator honours n, max_tokens, stream, stream_options, service_tier and these parameters.
    response_format: JSON that matches the schema. tools: one or several calls with matching
    arguments, as tool_choice (none, auto, required or a name) and parallel_tool_calls ask; with
    auto about half of the requests get calls. logprobs, top_logprobs: figures for every token.
    reasoning_effort: reasoning tokens per answer, included in the usage. Others are ignored.
    """
    from batchrun.simulator.plan import SimulatorOptions

    try:
        options = SimulatorOptions(**flags)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    _serve(options, as_json=as_json)


def _serve(options: "SimulatorOptions", *, as_json: bool) -> None:
    """Serve until SIGINT or SIGTERM."""
    import asyncio  # slow, and --help needs none of it

    from batchrun.simulator.serving import (
        CannotListenError,
        listening,
        new_loop,
    )

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with listening(options) as server:
            click.echo(f"simulator listening on {server.base_url} (Ctrl-C stops it)", err=True)
            if as_json:
                ready = {"base_url": server.base_url, "port": server.port, "pid": os.getpid()}
                click.echo(json.dumps(ready))
            await stop.wait()

    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(serve())
    except (CannotListenError, OSError) as error:
        raise StartError(str(error)) from error
