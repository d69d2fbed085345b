"""Where settings come from besides flags: the config file, the environment and ``.env``."""

from __future__ import annotations

import os
from pathlib import Path

from batchrun.core import settings
from batchrun.errors import UsageError

DOTENV = ".env"


def read_config(path: str) -> settings.Raw:
    """Raw values of a config file. Raises ``UsageError`` for one that is missing or not valid."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: {getattr(error, 'strerror', None) or error}"
        raise UsageError(message) from None
    return settings.from_toml(text, path=path)


def read_environment() -> dict[str, str]:
    """The environment over ``.env`` in the working directory. Empty counts as unset."""
    merged: dict[str, str] = {}
    if Path(DOTENV).is_file():
        from dotenv import dotenv_values

        try:
            merged = {k: v for k, v in dotenv_values(DOTENV).items() if v}
        except (OSError, UnicodeDecodeError) as error:
            message = f"{DOTENV} cannot be read: {error}"
            raise UsageError(message) from None
    return merged | {k: v for k, v in os.environ.items() if v}
