"""Where settings come from besides flags: the config file, the environment and ``.env``."""

from __future__ import annotations

import json
import os
from pathlib import Path

from batchrun.adapters.storage.home import located
from batchrun.core.schema.response_format import of_document, schema_of
from batchrun.core.settings import resolve
from batchrun.core.settings.values import require_schema
from batchrun.errors import NotASchemaError, UsageError

DOTENV = ".env"


def read_config(path: str) -> resolve.Raw:
    """Raw values of a config file. Raises ``UsageError`` if it is missing or invalid."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: {getattr(error, 'strerror', None) or error}"
        if isinstance(error, FileNotFoundError):
            message += "; `batchrun init` writes a config file to start from"
        raise UsageError(message) from None
    return located(resolve.from_toml(text, path=path), Path(path).parent)


def read_schema(raw: resolve.Raw) -> resolve.Raw:
    """Raw values with the file of ``request.schema`` read. Raises ``UsageError`` naming it."""
    path = raw.get("request.schema")
    if not isinstance(path, str):
        return raw
    try:
        document = json.loads(Path(path).read_bytes())
        asked = of_document(document, Path(path).name.partition(".")[0])
        if raw.get("output.check_schema") is not False:
            require_schema(schema_of(asked))
    except OSError as error:
        message = f"{path}: {error.strerror or error}"
        raise UsageError(message) from None
    except NotASchemaError as error:
        message = f"{path} is not a JSON Schema: {error}"
        raise UsageError(message) from None
    except (ValueError, RecursionError) as error:
        message = f"{path} is not JSON: {error}"
        raise UsageError(message) from None
    return raw | {"request.schema": asked}


def read_environment() -> dict[str, str]:
    """The environment, which overrides ``.env`` in the working directory. Empty counts as unset."""
    merged: dict[str, str] = {}
    if Path(DOTENV).is_file():
        from dotenv import dotenv_values

        try:
            merged = {k: v for k, v in dotenv_values(DOTENV).items() if v}
        except (OSError, UnicodeDecodeError) as error:
            message = f"{DOTENV} cannot be read: {error}"
            raise UsageError(message) from None
    return merged | {k: v for k, v in os.environ.items() if v}
