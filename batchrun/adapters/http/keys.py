"""Where an endpoint's key comes from, and how it is renewed while requests are out."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from batchrun.adapters.http import key_command
from batchrun.core.settings import commands
from batchrun.core.settings.endpoint import Endpoint
from batchrun.core.settings.values import parse_key
from batchrun.core.text.redact import Redactor
from batchrun.errors import KeyUnavailableError, UsageError

KEY_FILE_BYTES_MAX = 2**16
ANEW_S = 1.0
"""After a source returned the same key again, seconds until it is read once more."""


class KeySource(Protocol):
    """A place from which a key is read."""

    renewable: bool
    """Whether reading it again may return another key."""

    def read(self, stop: Callable[[], bool] = lambda: False) -> str | None:
        """The key as it is sent, or None if there is none and none is needed. Blocks; gives up if
        ``stop`` returns true. Raises ``KeyUnavailableError``, without a key in its message.
        """
        ...

    def __str__(self) -> str:
        """Its name in messages."""
        ...


class Variable:
    """An environment variable, or one of ``.env``. Without a name there is no key."""

    renewable = False

    def __init__(self, name: str | None, environment: Mapping[str, str]) -> None:
        self._name = name
        self._value = "" if name is None else environment.get(name, "")

    def __str__(self) -> str:
        return f"the variable {self._name}"

    def read(self, stop: Callable[[], bool] = lambda: False) -> str | None:  # noqa: ARG002
        """See ``KeySource``. None if the variable is not set."""
        return _parsed(self._value, str(self))


class KeyFile:
    """A file with nothing but the key, such as a mounted secret."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.renewable = True

    def __str__(self) -> str:
        return f"the key file {self._path}"

    def read(self, stop: Callable[[], bool] = lambda: False) -> str | None:  # noqa: ARG002
        """See ``KeySource``. A pipe is only read once, since it would not be filled again."""
        try:
            with open(self._path, "rb") as file:  # noqa: PTH123 - a path may be /dev/fd/N
                self.renewable = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                data = file.read(KEY_FILE_BYTES_MAX + 1)
        except OSError as error:
            message = f"{self} cannot be read: {error.strerror}"
            raise KeyUnavailableError(message) from None
        if len(data) > KEY_FILE_BYTES_MAX:
            message = f"{self} is larger than {KEY_FILE_BYTES_MAX:,} bytes: that is not a key"
            raise KeyUnavailableError(message)
        return _needed(data, str(self))


class KeyCommand:
    """A command that prints the key."""

    renewable = True

    def __init__(self, command: str) -> None:
        self._words = commands.split_command(command)

    def __str__(self) -> str:
        return f"the key command {self._words[0]}"

    def read(self, stop: Callable[[], bool] = lambda: False) -> str | None:
        """See ``KeySource``."""
        return _needed(key_command.output_of(self._words, stop), str(self))


def source_of(endpoint: Endpoint, environment: Mapping[str, str]) -> KeySource:
    """The source that the settings name; by default a variable."""
    if endpoint.api_key_command is not None:
        return KeyCommand(endpoint.api_key_command)
    if endpoint.api_key_file is not None:
        return KeyFile(endpoint.api_key_file)
    return Variable(endpoint.api_key_env, environment)


def _needed(data: bytes, source: str) -> str:
    """Check that there is a key."""
    # Some editors put a byte-order mark before the text; replacement characters are refused.
    key = _parsed(data.decode("utf-8-sig", errors="replace"), source)
    if key is None:
        message = f"{source} gave no key: it is empty"
        raise KeyUnavailableError(message)
    return key


def _parsed(text: str, source: str) -> str | None:
    try:
        return parse_key(text, source=source)
    except UsageError as error:
        raise KeyUnavailableError(str(error)) from None


class RenewableKey:
    """``ports.Credentials`` over a source: at most one renewal runs, in a thread."""

    def __init__(
        self,
        source: KeySource,
        key: str | None,
        *,
        install: Callable[[str], None],
        redactor: Redactor,
        say: Callable[[str], None],
    ) -> None:
        """``key`` is the one in use; ``install`` replaces it; ``redactor`` gets the new key before
        that.
        """
        self._source = source
        self._key = key
        self._install = install
        self._redactor = redactor
        self._say = say
        self._renewing: asyncio.Task[bool] | None = None
        self._not_before_s = 0.0
        self._closing = threading.Event()
        self.generation = 0

    async def renew(self, used: int, *, proved: bool) -> bool:
        """See ``ports.Credentials``."""
        if used != self.generation:
            return True
        if not self._source.renewable or (self.generation and not proved):
            return False
        if self._renewing is None:
            if asyncio.get_running_loop().time() < self._not_before_s:
                return False
            self._renewing = asyncio.create_task(self._renew(), name="key")
            self._renewing.add_done_callback(self._renewed)
        # A row that is given up meanwhile must not cancel the renewal for the others.
        return await asyncio.shield(self._renewing)

    async def close(self) -> None:
        """End a renewal in progress."""
        self._closing.set()
        if self._renewing is not None:
            await asyncio.wait((self._renewing,))

    async def _renew(self) -> bool:
        try:
            key = await asyncio.to_thread(self._source.read, self._closing.is_set)
        except KeyUnavailableError as error:
            raise KeyUnavailableError(self._redactor.text(str(error))) from None
        if key is None or key == self._key:
            self._not_before_s = asyncio.get_running_loop().time() + ANEW_S
            return False
        self._redactor.add([key])
        self._key = key
        self._install(key)
        self.generation += 1
        self._say(f"the server refused the key; {self._source} gave a new one")
        return True

    def _renewed(self, task: asyncio.Task[bool]) -> None:
        self._renewing = None
        if not task.cancelled():
            task.exception()  # the waiters have seen it
