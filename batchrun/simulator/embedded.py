"""The simulator inside another program: a server in a separate thread."""

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from types import TracebackType
from typing import Self

from batchrun.simulator.plan import SimulatorOptions
from batchrun.simulator.serving import Listening, listening, new_loop


@dataclass(frozen=True, slots=True)
class _Live:
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event
    server: Listening


class EmbeddedSimulator:
    """A context manager that serves while it is entered.

    Entering raises what `listening` raises. It can be entered again after it was left.

        with EmbeddedSimulator(SimulatorOptions(rpm=600)) as simulator:
            client = OpenAI(base_url=simulator.base_url, api_key="any")
    """

    def __init__(self, options: SimulatorOptions | None = None) -> None:
        self.options = options or SimulatorOptions()
        self._thread: Thread | None = None
        self._running: _Live | None = None

    def __enter__(self) -> Self:
        ready: Future[_Live] = Future()
        self._thread = Thread(target=self._serve, args=(ready,), name="simulator", daemon=True)
        self._thread.start()
        self._running = ready.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        live, self._running = self._live, None
        live.loop.call_soon_threadsafe(live.stop.set)
        if self._thread is not None:
            self._thread.join()

    @property
    def base_url(self) -> str:
        """The base URL for a client, including `/v1`."""
        return self._live.server.base_url

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._live.server.port

    def stats(self, *, detail: bool = False) -> dict[str, object]:
        """The ledger, as `GET /stats` shows it, at one moment."""

        async def read() -> dict[str, object]:
            return live.server.simulator.ledger.stats(detail=detail)

        live = self._live
        return asyncio.run_coroutine_threadsafe(read(), live.loop).result()

    def reset_stats(self) -> None:
        """Forget everything, including how often each request was sent."""

        async def reset() -> None:
            live.server.simulator.ledger.reset()

        live = self._live
        asyncio.run_coroutine_threadsafe(reset(), live.loop).result()

    @property
    def _live(self) -> _Live:
        if self._running is None:
            raise RuntimeError("the simulator serves only inside its 'with' block")
        return self._running

    def _serve(self, ready: Future[_Live]) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(self._listen(ready))

    async def _listen(self, ready: Future[_Live]) -> None:
        try:
            async with listening(self.options) as server:
                stop = asyncio.Event()
                ready.set_result(_Live(asyncio.get_running_loop(), stop, server))
                await stop.wait()
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)
