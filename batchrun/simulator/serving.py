"""Listening: a simulator on a loopback port for as long as a context lasts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from batchrun.simulator.ledger import ExchangeLog
from batchrun.simulator.plan import LOCALHOST, SimulatorOptions
from batchrun.simulator.server import Simulator

BACKLOG = 4096  # a load test opens its connections all at once; a full queue costs it a second
SHUTDOWN_S = 0.25  # what exchanges in flight get to end by themselves


class CannotListenError(Exception):
    """The address could not be had; `reason` is the operating system's."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(
            f"cannot listen on {host}:{port}: {reason}; choose another port, or 0 for any free one"
        )
        self.host = host
        self.port = port
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Listening:
    """A simulator that answers at `base_url`."""

    simulator: Simulator
    host: str
    port: int

    @property
    def base_url(self) -> str:
        """What a client takes for its base URL, `/v1` included."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"


@asynccontextmanager
async def listening(options: SimulatorOptions) -> AsyncIterator[Listening]:
    """Listen for as long as the context lasts; then drop what does not end by itself.

    Raises CannotListenError, or OSError if the log cannot be opened.
    """
    host = LOCALHOST if options.host == "localhost" else options.host
    async with AsyncExitStack() as stack:
        log = None
        if options.log_path is not None:
            log = ExchangeLog(options.log_path)
            stack.callback(log.close)
        simulator = Simulator(options, log=log)
        runner = web.AppRunner(
            simulator.application(),
            handle_signals=False,
            handler_cancellation=True,  # a stalled exchange ends when its client gives up
            access_log=None,
            shutdown_timeout=SHUTDOWN_S,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, host, options.port, backlog=BACKLOG).start()
        except OSError as error:
            raise CannotListenError(host, options.port, error.strerror or str(error)) from error
        yield Listening(simulator, host, runner.addresses[0][1])


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop of uvloop's where it is installed, else asyncio's own."""
    try:
        import uvloop  # absent on some platforms
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
