"""Notifications when a run ends, however it ends: the metrics file, the command, the webhook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from batchrun.core.settings.addresses import format_address, is_remote
from batchrun.core.settings.resolve import Settings
from batchrun.errors import BatchrunError
from batchrun.ports import Observer

if TYPE_CHECKING:
    from batchrun.adapters.environment.metrics_file import MetricsFile

FAILED = "failed"
"""The status of a run that ended without a summary."""
DEFECT = 5


class Announcing(AbstractContextManager["Announcing"]):
    """Wraps a run. ``observers`` must watch it; ``ended`` takes its summary. Leaving the context
    sends the notifications; an exception is an end as well.

    Raises ``UsageError`` at the start for a metrics file that cannot be written. Nothing is loaded
    if nothing is configured.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._summary: Mapping[str, Any] | None = None
        self._elsewhere = False
        self._file: MetricsFile | None = None

    @property
    def observers(self) -> list[Observer]:
        """The observers that the notifications need."""
        return [] if self._file is None else [self._file]

    def ended(self, summary: Mapping[str, Any], *, elsewhere: bool = False) -> None:
        """The run ended, with this summary; ``elsewhere``: another process runs the command and
        calls the webhook. A process of a fleet that had nothing to do has no summary.
        """
        self._summary, self._elsewhere = summary or None, elsewhere

    def __enter__(self) -> Self:
        if self._settings.metrics_file is not None:
            from batchrun.adapters.environment.metrics_file import MetricsFile

            self._file = MetricsFile(self._settings.metrics_file)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        code = _code_of(error) if self._summary is None else int(self._summary["exit_code"])
        if self._elsewhere and self._summary is None and error is None:
            return  # it sent nothing, so there is nothing to report
        if self._file is not None:
            try:
                self._file.end(self._summary, code)
            except OSError as fault:
                name = f"--metrics-file {self._settings.metrics_file}"
                self._say(f"warning: {name} cannot be written: {fault.strerror}")
        wanted = self._settings.on_finish is not None or self._settings.webhook is not None
        if wanted and not self._elsewhere:
            self._tell(code, error)

    async def __aenter__(self) -> Self:
        """Like the context manager, without blocking the event loop."""
        import asyncio

        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def _tell(self, code: int, error: BaseException | None) -> None:
        from batchrun.adapters.environment import notify
        from batchrun.views import ending

        settings, summary = self._settings, self._summary
        folder = settings.dir
        folder = format_address(folder) if is_remote(folder) else str(Path(folder).absolute())
        if summary is None:
            said = str(error) if isinstance(error, BatchrunError) else type(error).__name__
            summary = {"status": FAILED, "exit_code": code, "error": said}
            line = f"{FAILED}: {said}"
        else:
            line = ending.lines(summary, settings.dir, resume="")[0]
        text = f"batchrun {format_address(settings.dir)}: {line}"
        ended = notify.Ended(str(summary["status"]), code, folder, text, summary)
        try:
            if settings.webhook is not None:
                notify.post(settings.webhook, ended, self._say)
            if settings.on_finish is not None:
                notify.run_command(settings.on_finish, ended, self._say)
        except KeyboardInterrupt:
            self._say("warning: interrupted while sending notifications that the run ended")


def _code_of(error: BaseException | None) -> int:
    """The exit code for an exception."""
    if isinstance(error, BatchrunError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 128 + int(getattr(error, "number", 2))
    return DEFECT
