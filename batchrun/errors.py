"""The error tree: what can go wrong, as types with fields.

A message says what happened, to which file or row, and what to do next. Nothing here carries a
credential. ``exit_code`` is what the command returns when the error reaches the top.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchrun.records import Reply


EXIT_CODES = {
    0: (
        "Every row is `ok`. For `verify` and `doctor`: everything holds. For `validate` and "
        "`run --dry-run`: every row can be sent."
    ),
    1: (
        "Finished, with some `error` rows. For `verify` and `doctor`: something does not hold. "
        "For `validate` and `run --dry-run`: a row cannot be sent."
    ),
    2: (
        "A flag, the configuration, the input or the run directory has a fault, or another process "
        "is working on the directory. Nothing was sent."
    ),
    3: "A guard stopped the run; rows are pending. The same command resumes it.",
    4: (
        "A gate failed (`[gates]` in the config file), or is inconclusive where that counts as a "
        "failure."
    ),
    5: (
        "Storage, input or the program failed midway: a full disk, an input that became "
        "unreadable, a bug. The same command resumes the run."
    ),
    141: "The reader of the command's output went away (`| head`).",
}
"""What the exit codes mean. A signal's code is 128 and its number."""


class BatchrunError(Exception):
    """Base of everything this package raises on purpose."""

    exit_code = 5


class UsageError(BatchrunError):
    """A setting, flag or configuration file is wrong. Nothing was sent."""

    exit_code = 2


class KeyUnavailableError(UsageError):
    """The variable, file or command of the key has no key that can be sent. At the start nothing
    was sent; at a renewal the run stops as it does for a refused key.
    """


class InputError(BatchrunError):
    """An input file is missing, unreadable or of a kind that cannot be run. Nothing was sent."""

    exit_code = 2


class InputLostError(BatchrunError):
    """The input could be read at the start and failed midway."""


class InputChangedError(InputLostError):
    """The piped input differs from the input that the run started with. Rows before the difference
    are answered and kept.
    """

    exit_code = 2


class RunChangedError(BatchrunError):
    """Settings or input differ from those the run directory was made with. Nothing was touched."""

    exit_code = 2


class RunLockedError(BatchrunError):
    """Another process works on this run directory.

    ``holder`` is what that process wrote into the lock (process id, host, start), if readable.
    """

    exit_code = 2

    def __init__(self, message: str, *, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


class DamagedError(BatchrunError):
    """A durable file does not contain what was written to it. ``path`` names it."""

    exit_code = 2

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class StorageError(BatchrunError):
    """A write failed (disk full, no permission). Everything committed before it is intact."""


class ScoringError(BatchrunError):
    """A score or a metric could not be computed: SQL failed on a row, a Python scorer crashed, hung
    or returned invalid values. The results are intact. ``interrupted`` is true if it was stopped on
    purpose, ``out_of_memory`` if it needs more memory than its limit.
    """

    def __init__(
        self, message: str, *, interrupted: bool = False, out_of_memory: bool = False
    ) -> None:
        super().__init__(message)
        self.interrupted = interrupted
        self.out_of_memory = out_of_memory


class LocalServerError(BatchrunError):
    """The server that ``--provider local`` started did not begin to serve, or ended while it was
    needed. A run whose server ended is stopped by the guard ``local_server``.
    """


class RunUnfinishedError(BatchrunError):
    """A function that needs a finished run was given one with pending rows, or a killed one."""

    exit_code = 3


class RunStoppedError(BatchrunError):
    """A guard stopped the run with rows pending; the same call resumes.

    Raised by ``batchrun.stream`` after its last outcome. ``by`` is the guard.
    """

    exit_code = 3

    def __init__(self, message: str, *, by: str) -> None:
        super().__init__(message)
        self.by = by


class RowError(BatchrunError):
    """One input row cannot become a request; it turns into an ``invalid_row`` outcome."""


class BodyTooLargeError(RowError):
    """The body of a row has more bytes than are sent."""

    def __init__(self, size: int, most: int) -> None:
        super().__init__(f"the body is {size:,} bytes; at most {most:,} are sent")
        self.size, self.most = size, most


class NoModelError(RowError):
    """Neither the row nor the settings name a model."""


class UnboundedError(RowError):
    """A request has no worst-case cost, but the run has a budget."""


class NotASchemaError(BatchrunError):
    """A JSON value is not a usable JSON Schema; the message says why. It becomes an error of the
    row or of the setting that contains it.
    """


class FaultKind(StrEnum):
    """Why no whole reply came: a key of the verdict table (``core/verdict/rules.py``), and the
    ``error_code`` of such an attempt.
    """

    TIMEOUT = "timeout"
    """Not within ``--timeout`` or ``--connect-timeout``."""
    DNS = "dns"
    """The host name was not found."""
    CONNECT = "connect"
    """No connection was made."""
    STALE = "stale"
    """A kept-alive connection was closed before it was used again."""
    RESET = "reset"
    """The connection was closed before the reply began."""
    CUT = "cut"
    """The connection was closed within the reply."""
    INCOMPLETE = "incomplete"
    """A stream ended before its answer did."""
    SUSPENDED = "suspended"
    """The connection broke while this process, or its machine, was stopped."""
    TLS = "tls"
    """The server's certificate, or TLS itself, was refused."""
    PROXY = "proxy"
    """The proxy refused the connection."""
    TOO_LARGE = "too_large"
    """The reply is larger than ``--max-response-bytes``."""
    INTERRUPTED = "interrupted"
    """The run ended before the reply came. It never reaches the verdict table."""


class TransportFault(BatchrunError):
    """One exchange ended without a whole reply.

    ``kind`` may be given as its value; any other text raises ``ValueError``. ``sent`` is true if
    the request may have reached the server and may have been billed. ``http_status`` is set if the
    reply's head had arrived, ``partial`` if part of a streamed answer had.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: FaultKind | str,
        sent: bool,
        http_status: int | None = None,
        partial: Reply | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = FaultKind(kind)
        self.sent = sent
        self.http_status = http_status
        self.partial = partial
