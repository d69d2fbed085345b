"""`batchrun simulate`: the simulated endpoint as a process of its own."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

import click

from batchrun.cli.paths import PATH

if TYPE_CHECKING:
    from batchrun.simulator.capacity import Capacity
    from batchrun.simulator.changes import Change
    from batchrun.simulator.latency import Latency
    from batchrun.simulator.plan import SimulatorOptions


T = TypeVar("T")


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


@click.command("simulate")
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address.")
@click.option("--port", type=int, default=0, show_default=True, help="0 takes any free port.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for answers and faults.")
@click.option(
    "--models", metavar="A,B", callback=_read_models, help="Models served. [default: any]"
)
@click.option("--api-key", metavar="KEY", help="Require this key. [default: none]")
@click.option(
    "--reply-bytes",
    type=int,
    metavar="N",
    help="Size of an answer's content. [default: 40 to 120 tokens]",
)
@click.option(
    "--refusal",
    "refusal_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Refuse a share of the requests, in the message's field `refusal`.",
)
@click.option(
    "--reasoning-field",
    metavar="NAME",
    help="Send the reasoning's text in this field: reasoning_content or reasoning. [default: "
    "not sent]",
)
@click.option(
    "--latency",
    metavar="MODEL",
    callback=_read_latency,
    help="fixed:S, lognormal:MEDIAN:SIGMA or per-token:BASE:S_PER_TOKEN, in seconds. [default: "
    "fixed:0; fixed:0.1 with slots and knee of --capacity]",
)
@click.option(
    "--capacity",
    metavar="MODEL",
    callback=_read_capacity,
    help="Serve like a busy server. slots:K:Q: K requests at once, Q wait, others get a 429. "
    "knee:N:P: more than N requests take (their number / N)^P times as long. batching:T0:C:KV: a "
    "token takes T0 + C * (running requests) ms, and what needs more than KV tokens of cache is "
    "preempted. [default: no bound]",
)
@click.option(
    "--change",
    "changes",
    multiple=True,
    metavar="S:NAME=VALUE",
    callback=_read_changes,
    help="Change capacity, rpm or tpm so many seconds after the first request, such as "
    "30:rpm=600 or 60:capacity=slots:2:100; none lifts it. Repeatable.",
)
@click.option(
    "--metrics/--no-metrics",
    default=True,
    show_default=True,
    help="Report how busy the server is at /metrics, under the names that vLLM uses.",
)
@click.option("--rpm", type=float, metavar="N", help="Enforce this many requests per minute.")
@click.option("--tpm", type=float, metavar="N", help="Enforce this many tokens per minute.")
@click.option(
    "--charge",
    default="sum",
    show_default=True,
    metavar="RULE",
    help="The tokens that a request counts for: sum (prompt plus max_tokens), max (the larger of "
    "them), input (the prompt) or real (prompt plus answer).",
)
@click.option(
    "--counting",
    default="bucket",
    show_default=True,
    metavar="RULE",
    help="How --rpm and --tpm are enforced: bucket (refills continuously), sliding (counts any "
    "window) or fixed (a new count for each window).",
)
@click.option(
    "--rpm-window",
    "rpm_window_s",
    type=float,
    metavar="S",
    help="Size of a burst of requests, in seconds' worth of --rpm. [default: 1; 60 with sliding "
    "and fixed]",
)
@click.option(
    "--tpm-window",
    "tpm_window_s",
    type=float,
    metavar="S",
    help="Size of a burst of tokens, in seconds' worth of --tpm. [default: 1; 60 with sliding and "
    "fixed]",
)
@click.option(
    "--bare-429",
    is_flag=True,
    help="Send every 429 without Retry-After and without a reason. --limit-headers none leaves out "
    "the rest.",
)
@click.option(
    "--limit-headers",
    default="openai",
    metavar="NAME",
    show_default=True,
    help="Report these limits as this server does: openai, azure, groq, cerebras, mistral, "
    "together, anthropic, openrouter, ietf (its draft), or none.",
)
@click.option(
    "--error",
    "error_rates",
    multiple=True,
    metavar="STATUS=RATE",
    callback=_read_error_rates,
    help="Answer a share of the requests with this error, a status or another name; repeatable.",
)
@click.option(
    "--retry-after",
    "retry_after_s",
    type=float,
    default=0.2,
    metavar="S",
    show_default=True,
    help="Retry-After of the 429 that --error injects.",
)
@click.option(
    "--fail-first",
    type=int,
    default=0,
    metavar="N",
    show_default=True,
    help="Answer the first N attempts at each request with status 500.",
)
@click.option(
    "--drop",
    "drop_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Close the connection before any answer.",
)
@click.option(
    "--cut",
    "cut_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Close the connection after half of the body.",
)
@click.option(
    "--stall",
    "stall_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Do not answer until the client gives up.",
)
@click.option(
    "--garbage",
    "garbage_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Answer with status 200 and an HTML page.",
)
@click.option(
    "--error-200",
    "error_200_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Answer with status 200 and an error in the body.",
)
@click.option(
    "--stream-end",
    "stream_end_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="End a stream in good order after half of its chunks.",
)
@click.option(
    "--stream-stall",
    "stream_stall_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Send half of a stream, then nothing until the client gives up.",
)
@click.option(
    "--stream-error",
    "stream_error_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Send an error after half of a stream.",
)
@click.option(
    "--no-done",
    "no_done_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Send a whole stream without its last event, [DONE].",
)
@click.option(
    "--odd-framing",
    "odd_framing_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Send a stream with CRLF, comments, ids and data over several lines.",
)
@click.option(
    "--invalid",
    "invalid_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="If JSON or a tool call is requested, reply with something else.",
)
@click.option(
    "--truncated",
    "truncated_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Break answers off half-way, with finish_reason length.",
)
@click.option(
    "--empty",
    "empty_rate",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Answer without content.",
)
@click.option(
    "--detail/--no-detail",
    default=True,
    show_default=True,
    help="Count per request (about 180 MB per million).",
)
@click.option(
    "--log",
    "log_path",
    type=PATH,
    callback=lambda _ctx, _param, value: value and Path(value),
    metavar="FILE",
    help="Append one JSON line per exchange.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the address as JSON once ready.")
def command(*, as_json: bool, **flags: Unpack[_Flags]) -> None:
    """Serve a simulated OpenAI-compatible endpoint on this machine.

    The same request gets the same answer, streamed or not, and with the same --seed the same
    faults. A stream begins after the latency's base and continues at its pace per token. /stats
    reports all requests (?detail=1: one by one).

    It honours n, max_tokens, stream, stream_options, service_tier and these parameters.
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
            click.echo(f"simulator listening on {server.base_url} (ctrl-c ends it)", err=True)
            if as_json:
                ready = {"base_url": server.base_url, "port": server.port, "pid": os.getpid()}
                click.echo(json.dumps(ready))
            await stop.wait()

    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(serve())
    except (CannotListenError, OSError) as error:
        raise StartError(str(error)) from error
