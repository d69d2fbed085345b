"""The resolved settings of a run.

Raw values from the config file, the environment and the flags are laid over each other (a flag wins
over the environment, which wins over the file) and turned into ``Settings`` once; nobody
downstream checks again.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from batchrun.core.redact import public_url
from batchrun.core.setting_table import (
    AUTO_CONCURRENCY,
    BY_NAME,
    DEFAULT_BASE_URL,
    SECTIONS,
    TABLE,
    Setting,
)
from batchrun.errors import UsageError

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

Raw = dict[str, Any]
"""Values by ``section.key``, not checked yet."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go and how fast. The key is not in here."""

    name: str
    provider: str | None
    base_url: str
    api_key_env: str
    headers: Mapping[str, str] = field(repr=False)
    concurrency: int
    rpm: float | None
    tpm: float | None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one run, checked. Paths are as given, relative to the working directory."""

    files: tuple[str, ...]
    format: str
    carry: str | tuple[str, ...]
    dir: str
    checkpoint: str
    raw: str
    shard_rows: int
    model: str | None
    params: Mapping[str, Any]
    endpoint: Endpoint
    max_attempts: int
    timeout_s: float
    connect_timeout_s: float
    max_wait_s: float
    max_response_bytes: int
    grace_s: float
    limit: int | None = None

    def defaults(self) -> dict[str, Any]:
        """The body parameters of rows that do not set them."""
        body = dict(self.params)
        if self.model is not None:
            body["model"] = self.model
        return body

    def shaping(self) -> dict[str, Any]:
        """The settings that shape requests and parts, which a resumed run must share."""
        return {
            "input.carry": self.carry if isinstance(self.carry, str) else list(self.carry),
            "output.shard_rows": self.shard_rows,
            "request.model": self.model,
            "request.params": dict(self.params),
        }

    def public(self) -> dict[str, Any]:
        """All settings as they may be shown: header values are left out, they may be keys."""
        return self.shaping() | {
            "input.files": list(self.files),
            "input.format": self.format,
            "output.dir": self.dir,
            "output.checkpoint": self.checkpoint,
            "output.raw": self.raw,
            "endpoint.name": self.endpoint.name,
            "endpoint.base_url": public_url(self.endpoint.base_url),
            "endpoint.api_key_env": self.endpoint.api_key_env,
            "endpoint.headers": sorted(self.endpoint.headers),
            "endpoint.concurrency": self.endpoint.concurrency,
            "endpoint.rpm": self.endpoint.rpm,
            "endpoint.tpm": self.endpoint.tpm,
            "retry.max_attempts": self.max_attempts,
            "retry.timeout_s": self.timeout_s,
            "retry.connect_timeout_s": self.connect_timeout_s,
            "retry.max_wait_s": self.max_wait_s,
            "retry.max_response_bytes": self.max_response_bytes,
            "guards.grace_s": self.grace_s,
            "limit": self.limit,
        }


def from_toml(text: str, *, path: str) -> Raw:
    """Raw values of a config file. Paths in it become relative to the file's folder.

    Raises ``UsageError`` naming the file, and the nearest known key for an unknown one.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = f"{path}: not valid TOML: {error}"
        raise UsageError(message) from None
    folder = PurePath(path).parent
    raw: Raw = {}
    for section, given in document.items():
        if section not in SECTIONS:
            message = f"{path}: unknown table [{section}]{_nearest(section, SECTIONS)}"
            raise UsageError(message)
        content = _only_endpoint(given, path) if section == "endpoint" else given
        if not isinstance(content, dict):
            message = f"{path}: [{section}] must be a table"
            raise UsageError(message)
        known = [setting.key for setting in TABLE if setting.section == section]
        for key, value in content.items():
            if key not in known:
                message = f"{path}: unknown key {section}.{key}{_nearest(key, known)}"
                raise UsageError(message)
            raw[f"{section}.{key}"] = _located(BY_NAME[f"{section}.{key}"], value, folder)
    return raw


def _only_endpoint(content: object, path: str) -> object:
    if not isinstance(content, list):
        message = f"{path}: write the endpoint as [[endpoint]]"
        raise UsageError(message)
    if len(content) != 1:
        message = f"{path}: {len(content)} [[endpoint]] tables; this version runs one"
        raise UsageError(message)
    return content[0]


def _located(setting: Setting, value: object, folder: PurePath) -> object:
    if setting.kind == "path" and isinstance(value, str):
        return str(folder / value)
    if setting.kind == "paths" and isinstance(value, list):
        return [str(folder / item) if isinstance(item, str) else item for item in value]
    return value


def _nearest(word: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]}?" if found else f"; known are {', '.join(known)}"


def from_environment(environment: Mapping[str, str]) -> tuple[Raw, list[str]]:
    """Raw values that the environment sets, and warnings about it. Empty counts as unset."""
    url = environment.get("OPENAI_BASE_URL") or None
    legacy = environment.get("OPENAI_API_BASE") or None
    warnings = []
    if url and legacy and url != legacy:
        warnings.append("OPENAI_BASE_URL and OPENAI_API_BASE differ; OPENAI_BASE_URL is used")
    chosen = url or legacy
    return ({"endpoint.base_url": chosen} if chosen else {}), warnings


def resolve(raw: Raw, *, limit: int | None = None) -> Settings:
    """Check raw values and fill in the defaults. Raises ``UsageError`` naming the setting."""
    value = {
        setting.name: _checked(setting, raw[setting.name])
        if raw.get(setting.name) is not None
        else setting.default
        for setting in TABLE
    }
    if not value["input.files"]:
        message = "no input: name the input files, or set input.files in the config file"
        raise UsageError(message)
    if value["output.dir"] is None:
        message = "no run directory: give one with -o DIR, or set output.dir in the config file"
        raise UsageError(message)
    if limit is not None and limit < 1:
        message = f"--limit is {limit}; it must be at least 1"
        raise UsageError(message)
    if "messages" in value["request.params"]:
        message = "request.params sets `messages`; every row brings its own"
        raise UsageError(message)
    return Settings(
        files=tuple(value["input.files"]),
        format=value["input.format"],
        carry=value["input.carry"],
        dir=value["output.dir"],
        checkpoint=value["output.checkpoint"] or str(PurePath(value["output.dir"], "checkpoint")),
        raw=value["output.raw"],
        shard_rows=value["output.shard_rows"],
        model=value["request.model"],
        params=value["request.params"],
        endpoint=_endpoint(value),
        max_attempts=value["retry.max_attempts"],
        timeout_s=value["retry.timeout_s"],
        connect_timeout_s=value["retry.connect_timeout_s"],
        max_wait_s=value["retry.max_wait_s"],
        max_response_bytes=value["retry.max_response_bytes"],
        grace_s=value["guards.grace_s"],
        limit=limit,
    )


def _endpoint(value: Mapping[str, Any]) -> Endpoint:
    concurrency = value["endpoint.concurrency"]
    provider = value["endpoint.provider"]
    return Endpoint(
        name=value["endpoint.name"] or provider or "default",
        provider=provider,
        base_url=value["endpoint.base_url"] or DEFAULT_BASE_URL,
        api_key_env=value["endpoint.api_key_env"],
        headers=value["endpoint.headers"],
        concurrency=AUTO_CONCURRENCY if concurrency == "auto" else concurrency,
        rpm=value["endpoint.rpm"],
        tpm=value["endpoint.tpm"],
    )


def _checked(setting: Setting, value: object) -> Any:  # noqa: PLR0912 - a kind is a case
    wrong = UsageError(f"{setting.name} is {value!r}; expected {_expectation(setting)}")
    match setting.kind:
        case "text" | "path":
            if not isinstance(value, str) or not value:
                raise wrong
        case "paths":
            if isinstance(value, str):
                value = [value]
            if not isinstance(value, (list, tuple)) or not all(
                isinstance(item, str) and item for item in value
            ):
                raise wrong
        case "choice":
            if value not in setting.choices:
                raise wrong
        case "int" | "number" | "concurrency":
            if setting.kind == "concurrency" and value == "auto":
                return value
            integral = setting.kind != "number"
            if isinstance(value, bool) or not isinstance(value, int if integral else (int, float)):
                raise wrong
            if not (setting.low or 0) <= value < float("inf"):
                raise wrong
        case "columns":
            return _columns(value, wrong)
        case "object":
            if not isinstance(value, dict):
                raise wrong
            _check_json(setting, value)
        case "headers":
            return _headers(setting, value)
    return value


def _columns(value: object, wrong: UsageError) -> str | tuple[str, ...]:
    if value in ("all", "none"):
        return str(value)
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")]
    if not isinstance(value, list) or not all(isinstance(n, str) and n for n in value):
        raise wrong
    return tuple(value)


def _check_json(setting: Setting, value: object, where: str = "") -> None:
    """Refuse what JSON cannot hold, or servers do not take: NaN, dates, huge integers."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_json(setting, item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            _check_json(setting, item, where)
    elif not (
        value is None
        or isinstance(value, (str, bool))
        or (isinstance(value, int) and -(2**63) <= value < 2**63)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        message = f"{setting.name}{where} is {value!s}, which JSON cannot hold"
        raise UsageError(message)


def _headers(setting: Setting, value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        message = f"{setting.name}: expected a table of header names and values"
        raise UsageError(message)
    for name, text in value.items():
        if not _HEADER_NAME.fullmatch(name):
            message = f"{setting.name}: {name!r} is no header name"
            raise UsageError(message)
        if not isinstance(text, str) or not f"{name}{text}".isascii() or set(text) & set("\r\n\0"):
            # The value may be a credential: it is not repeated here.
            message = f"{setting.name}: the value of {name!r} is not one line of ASCII text"
            raise UsageError(message)
    return value


def _expectation(setting: Setting) -> str:
    match setting.kind:
        case "choice":
            return "one of " + ", ".join(setting.choices)
        case "int":
            return f"a whole number, at least {setting.low:g}"
        case "number":
            return f"a number, at least {setting.low:g}"
        case "concurrency":
            return "a whole number, at least 1, or auto"
        case "object":
            return "a table"
        case "paths":
            return "a list of file names"
        case "columns":
            return "all, none, or column names"
        case _:
            return "text"


def parse_param(text: str) -> tuple[str, Any]:
    """One ``KEY=JSON`` flag. Raises ``UsageError`` for what is not JSON."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        message = f"--param {text!r}: expected KEY=JSON, such as temperature=0"
        raise UsageError(message)
    try:
        return key, json.loads(value, parse_constant=_refuse_constant)
    except ValueError:
        message = f"--param {key}: {value!r} is not JSON (quote text twice: {key}='\"text\"')"
        raise UsageError(message) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def parse_header(text: str) -> tuple[str, str]:
    """One ``'K: V'`` flag. The value is not repeated in the error: it may be a credential."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        message = "--header: expected 'Name: value'"
        raise UsageError(message)
    return name.strip(), value.strip()


def parse_key(text: str, *, variable: str) -> str | None:
    """A key as it may go into a header: stripped, or None where empty.

    Raises ``UsageError`` for line breaks inside or text that is not ASCII, without repeating it.
    """
    key = text.strip()
    if not key.isascii() or any(ord(c) < 32 for c in key):
        message = f"the key in {variable} holds a line break or a character that is not ASCII"
        raise UsageError(message)
    return key or None


@dataclass(frozen=True, slots=True)
class Difference:
    """One shaping setting that is not what the run directory was made with."""

    name: str
    before: Any
    now: Any

    @property
    def keepable(self) -> bool:
        """Whether done rows may be kept in spite of it: parts hold one schema and one shard
        size, so these two need a new start.
        """
        return self.name not in ("input.carry", "output.shard_rows")

    def __str__(self) -> str:
        return f"{self.name}: was {_short(self.before)}, is {_short(self.now)}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What changed between the recorded shaping settings and the present ones."""
    names = dict.fromkeys([*before, *now])
    return [
        Difference(name, before.get(name), now.get(name))
        for name in names
        if before.get(name) != now.get(name)
    ]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
