"""How errors reach a program that calls batchrun: with its keywords, and a short traceback.

An error on purpose (``BatchrunError``) names keywords in place of flags. Its traceback ends at the
function that was called, and its cause stays only if code of the caller raised it, such as the
generator that makes the rows. The full traceback goes to the logger ``batchrun`` at debug level. A
defect of batchrun keeps its whole traceback.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sysconfig
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from batchrun.api_wording import in_keywords
from batchrun.errors import BatchrunError

P = ParamSpec("P")
R = TypeVar("R")

_LOG = logging.getLogger("batchrun")
_OURS = f"{Path(__file__).parent}{os.sep}"
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def public(
    check: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a public function, which may be a coroutine: ``check`` sees its keywords first, and
    deliberate errors are raised as this module describes. Its signature stays.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: P.args, **options: P.kwargs) -> Any:
                check(options)
                try:
                    return await cast("Awaitable[Any]", function(*args, **options))
                except BatchrunError as error:
                    failed, cause = for_callers(error, options)
                raise failed from cause

            return cast("Callable[P, R]", awaited)

        @functools.wraps(function)
        def called(*args: P.args, **options: P.kwargs) -> R:
            check(options)
            try:
                return function(*args, **options)
            except BatchrunError as error:
                failed, cause = for_callers(error, options)
            raise failed from cause

        return called

    return decorate


def for_callers(
    error: BatchrunError, given: Collection[str] = ()
) -> tuple[BatchrunError, BaseException | None]:
    """The error to raise from the function that was called with the keywords ``given``, and its
    cause.
    """
    _LOG.debug("%s: %s", type(error).__name__, error, exc_info=error)
    error.args = tuple(
        in_keywords(text, given) if isinstance(text, str) else text for text in error.args
    )
    cause = error.__cause__
    if cause is not None and not _is_of_caller(cause.__traceback__):
        cause = None
    if cause is not None:
        cause = cause.with_traceback(_without_ours(cause.__traceback__))
    return error.with_traceback(None), cause


def _is_of_caller(trace: TracebackType | None) -> bool:
    """Whether code outside batchrun and its libraries is in the traceback."""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((_OURS, *_LIBRARIES)):
            return True
        trace = trace.tb_next
    return False


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of batchrun."""
    if trace is None:
        return None
    rest = _without_ours(trace.tb_next)
    if trace.tb_frame.f_code.co_filename.startswith(_OURS):
        return rest
    return TracebackType(rest, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)
