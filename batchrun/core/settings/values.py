"""Checking one raw value of a setting by its kind, and reading flags that hold two things.

What comes from a config file, the environment or a flag is checked here and nowhere else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from batchrun.core.cost.price_table import own_prices
from batchrun.core.input import dialect
from batchrun.core.schema.response_format import of_document, schema_of
from batchrun.core.settings import commands
from batchrun.core.settings.bounds import Bound
from batchrun.core.settings.parameters import ENVELOPE, OF_THE_RUN, SENT
from batchrun.core.settings.providers import provider_named
from batchrun.core.settings.table import Setting
from batchrun.core.text.byte_sizes import Bytes, parse_bytes
from batchrun.core.text.template_syntax import is_template
from batchrun.errors import NotASchemaError, UsageError

Check = Callable[[Setting, object, UsageError], Any]

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,9})?)%", re.ASCII)
LABEL_MAX = 200
"""Characters of a label's value."""
_LABEL_NAME = re.compile(r"\w[\w.-]{0,99}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def checked(setting: Setting, value: object) -> Any:
    """The value as its kind has it. Raises ``UsageError`` naming the setting."""
    wrong = UsageError(f"{setting.name} is {value!r}; expected {_expectation(setting)}")
    return _CHECKS[setting.kind](setting, value, wrong)


def _text(_: Setting, value: object, wrong: UsageError) -> str:
    if not isinstance(value, str) or not value:
        raise wrong
    return value


def _texts(setting: Setting, value: object, wrong: UsageError) -> object:
    """One text or several."""
    several = [value] if isinstance(value, str) else value
    if not isinstance(several, (list, tuple)):
        raise wrong
    for item in several:
        _text(setting, item, wrong)
    return several


def _names(setting: Setting, value: object, wrong: UsageError) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise wrong
    return tuple(_text(setting, name, wrong) for name in value)


def _choice(setting: Setting, value: object, wrong: UsageError) -> object:
    if value not in setting.choices:
        raise wrong
    return value


def _number(setting: Setting, value: object, wrong: UsageError) -> object:
    if setting.kind == "concurrency" and value == "auto":
        return value
    wanted = (int, float) if setting.kind == "number" else int
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise wrong
    if not _is_within(setting, value):
        raise wrong
    return value


def _instance_of(kind: type) -> Check:
    def check(_: Setting, value: object, wrong: UsageError) -> object:
        if not isinstance(value, kind):
            raise wrong
        return value

    return check


def _object(setting: Setting, value: object, wrong: UsageError) -> object:
    if not isinstance(value, dict):
        raise wrong
    _check_json(setting, value)
    return value


def _messages(setting: Setting, value: object, wrong: UsageError) -> object:
    if not isinstance(value, list):
        raise wrong
    for place, message in enumerate(value):
        _check_message(setting, place, message)
    return value


def _header_name(_: Setting, value: object, wrong: UsageError) -> object:
    if not isinstance(value, str) or not _HEADER_NAME.fullmatch(value):
        raise wrong
    return value


def _labels(setting: Setting, value: object, _: UsageError) -> dict[str, str]:
    """Short texts by name. Numbers and truth values of a config file become text."""
    if not isinstance(value, dict):
        message = f"{setting.name} is {value!r}; expected a table of texts, such as team = 'search'"
        raise UsageError(message)
    found = {}
    for name, given in value.items():
        text = given
        if isinstance(given, bool):
            text = str(given).lower()
        elif isinstance(given, (int, float)):
            text = str(given)
        if not isinstance(text, str) or not text.isprintable() or len(text) > LABEL_MAX:
            message = (
                f"{setting.name}.{name} is {given!r}; expected one line of text of at most "
                f"{LABEL_MAX} characters"
            )
            raise UsageError(message)
        if not _LABEL_NAME.fullmatch(name):
            message = (
                f"{setting.name}: {name!r} is not a valid label name; use letters, digits, _, - "
                "and ., such as project"
            )
            raise UsageError(message)
        found[name] = text
    return found


def _is_within(setting: Setting, value: float) -> bool:
    """Whether a number is one of those that the setting takes. NaN and infinity never are."""
    most = math.inf if setting.high is None else setting.high
    return (setting.low or 0) <= value <= most and value < math.inf


def _written(setting: Setting, value: object, wrong: UsageError) -> str:
    """A delimiter or an encoding as it is recorded."""
    named = dialect.delimiter_named if setting.kind == "delimiter" else dialect.encoding_named
    found = named(value) if isinstance(value, str) else None
    if found is None:
        raise wrong
    return found


def _command(setting: Setting, value: object, _: UsageError) -> object:
    """The command is not repeated in an error: it may hold a credential."""
    try:
        commands.split_command(value if isinstance(value, str) else "")
    except ValueError as error:
        message = f"{setting.name}: {error}"
        raise UsageError(message) from None
    return value


def _webhook(setting: Setting, value: object, _: UsageError) -> object:
    """The URL is not repeated in an error: whoever has it may post there."""
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        message = f"{setting.name}: expected an http:// or https:// URL"
        raise UsageError(message)
    return value


def _schema(setting: Setting, value: object, wrong: UsageError) -> dict[str, Any]:
    # Files are read before: see adapters/environment/configuration.py.
    if not isinstance(value, dict):
        raise wrong
    _check_json(setting, value)
    try:
        return of_document(value, "answer")
    except NotASchemaError as error:
        message = f"{setting.name}: {error}"
        raise UsageError(message) from None


def _columns(_: Setting, value: object, wrong: UsageError) -> str | tuple[str, ...]:
    if value in ("all", "none"):
        return str(value)
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")]
    if not isinstance(value, list) or not all(isinstance(n, str) and n for n in value):
        raise wrong
    return tuple(value)


def _bytes(_: Setting, value: object, wrong: UsageError) -> Bytes:
    """A size: a whole number of bytes, or text with a unit."""
    if isinstance(value, str):
        size = parse_bytes(value)
    else:
        integral = isinstance(value, int) and not isinstance(value, bool)
        size = Bytes(value) if integral else None  # type: ignore[call-overload]
    if size is None or not 0 <= size < 2**63:
        raise wrong
    return size


def _models(_: Setting, value: object, wrong: UsageError) -> dict[str, str]:
    """By the name that rows use, the name that the endpoint has for it."""
    if isinstance(value, list):
        value = {name: name for name in value} if all(isinstance(n, str) for n in value) else None
    if not isinstance(value, dict) or not value:
        raise wrong
    if not all(isinstance(there, str) and here and there for here, there in value.items()):
        raise wrong
    return value


def _bound(setting: Setting, value: object, wrong: UsageError) -> Bound:
    """A share (``5%``), or a number of rows where the setting takes one."""
    if isinstance(value, str) and (found := _SHARE.fullmatch(value)):
        share = float(found[1])
        if share <= 100:
            return Bound(None, share / 100)
    elif setting.kind == "bound":
        if isinstance(value, str) and value.isdecimal() and value.isascii():
            return Bound(int(value), None)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return Bound(value, None)
    raise wrong


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


def _check_message(setting: Setting, place: int, message: object) -> None:
    where = f"{setting.name}[{place}]"
    if not isinstance(message, dict):
        wrong = f"{where} is {message!r}; expected a table with role and content"
        raise UsageError(wrong)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        wrong = f"{where} has no role"
        raise UsageError(wrong)
    if content is None and role != "assistant":
        wrong = f"{where} has role {role!r} and no content"
        raise UsageError(wrong)
    if isinstance(content, list) and not all(isinstance(part, dict) for part in content):
        wrong = f"{where}.content: every part must be a table, such as {{ type = 'text', ... }}"
        raise UsageError(wrong)
    if content is not None and not isinstance(content, (str, list)):
        wrong = f"{where}.content is {content!r}; expected text or a list of parts"
        raise UsageError(wrong)
    _check_json(setting, message, f"[{place}]")


def check_input(value: Mapping[str, Any]) -> None:
    """Whether there is one input: files, or the results of another run. Raises ``UsageError``."""
    if value["input.from"] is None:
        if not value["input.files"]:
            message = (
                "no input: name the input files, or set input.files in the config file; to use the "
                "results of another run, name its directory with --from (input.from)"
            )
            raise UsageError(message)
        for name, flag in (("from_status", "--from-status"), ("allow_partial", "--allow-partial")):
            if value[f"input.{name}"] not in ("ok", False):
                message = f"input.{name} ({flag}) requires --from DIR"
                raise UsageError(message)
        return
    if value["input.files"]:
        message = (
            "--from (input.from) makes the results of another run the input: leave the input files "
            "out, or --from"
        )
        raise UsageError(message)
    if value["request.prompt"] is None and not value["request.messages"]:
        message = (
            "--from (input.from) gives answers, which are not requests: say what to ask about "
            "them with --prompt (request.prompt) or [[request.messages]], such as --prompt "
            "'Translate into French: {{ row.content }}'"
        )
        raise UsageError(message)
    if value["input.send"] not in (None, "none"):
        message = (
            "input.send (--send) names columns to send as parameters, and with --from every column "
            "is data. Use a template: --model '{{ row.model }}', --param 'seed=\"{{ seed }}\"'"
        )
        raise UsageError(message)
    _refuse_file_settings(value)


def _refuse_file_settings(value: Mapping[str, Any]) -> None:
    """With ``--from``, settings that say how files are read have no meaning."""
    for name in ("format", "quoting", "delimiter", "encoding"):
        given = value[f"input.{name}"]
        if given is not None and (name, given) != ("format", "auto"):
            message = (
                f"input.{name} is {given!r}, which says how input files are read; with --from "
                "(input.from) there are none. Leave it out"
            )
            raise UsageError(message)


def check_request(value: Mapping[str, Any]) -> None:
    """Whether the settings of ``[request]``, and of what its answers must be, go together. Raises
    ``UsageError`` naming them.
    """
    if value["output.truncation_limit"] is not None and value["output.on_truncation"] != "retry":
        message = (
            "output.truncation_limit (--truncation-limit) is the limit of further tries, and "
            f"output.on_truncation is {value['output.on_truncation']!r}: set it to retry "
            "(--on-truncation retry)"
        )
        raise UsageError(message)
    if "messages" in value["request.params"]:
        message = "request.params sets `messages`; write them as [[request.messages]]"
        raise UsageError(message)
    if not isinstance(value["request.params"].get("extra_body", {}), dict):
        message = "request.params.extra_body is no table: what it holds goes into the body"
        raise UsageError(message)
    send = value["input.send"]
    if isinstance(send, tuple) and not OF_THE_RUN.isdisjoint(send):
        message = (
            "input.send (--send) names `stream`: how replies travel is set for the run, by --stream"
            if "stream" in send
            else "input.send (--send) names `messages`: rows that bring messages always send them, "
            "and with a prompt the prompt makes them. Leave it out"
        )
        raise UsageError(message)
    prompt, system, messages = (value[f"request.{key}"] for key in ("prompt", "system", "messages"))
    if messages and (prompt is not None or system is not None):
        name = "request.prompt" if prompt is not None else "request.system"
        message = f"{name} and request.messages both say what the messages are; use one of them"
        raise UsageError(message)
    if system is not None and prompt is None and value["request.turns"] is None:
        message = (
            "request.system would never be sent: it goes before a prompt, and rows with messages "
            "keep their own. Set request.prompt (--prompt) too"
        )
        raise UsageError(message)
    _check_turns(value)
    _check_format(value)
    attached = next((key for key in ("image", "file") if value[f"request.{key}"]), None)
    if attached is None:
        return
    if prompt is None and not any(message["role"] == "user" for message in messages):
        message = (
            f"request.{attached} adds to the user's message, and there is none: "
            "set request.prompt (--prompt), or request.messages with one of role 'user'"
        )
        raise UsageError(message)


def _check_turns(value: Mapping[str, Any]) -> None:
    """Whether the column of the turns is not one that is sent as it is."""
    name = value["request.turns"]
    if name is None:
        return
    made = any(value[f"request.{key}"] for key in ("prompt", "system", "messages"))
    if name in ENVELOPE or name == "extra_body" or (name in SENT and not made):
        message = (
            f"request.turns (--turns) names the column {name!r}, which has a meaning of its own in "
            "a row. Give the column with the user's turns another name"
        )
        raise UsageError(message)


def _check_format(value: Mapping[str, Any]) -> None:
    """Whether what asks for the form of the answer is said once, and is a schema."""
    given, schema = value["request.params"].get("response_format"), value["request.schema"]
    if schema is not None and given is not None:
        message = "request.schema and request.params both set `response_format`; use one of them"
        raise UsageError(message)
    name = "request.params.response_format" if schema is None else "request.schema"
    found = schema_of(given if schema is None else schema)
    if found is None or not value["output.check_schema"] or (schema is None and is_template(given)):
        return
    try:
        require_schema(found)
    except NotASchemaError as error:
        message = f"{name} is not a JSON Schema: {error}"
        raise UsageError(message) from None


def require_schema(schema: object) -> None:
    """Make sure that a JSON value is a schema. Raises ``NotASchemaError``."""
    from batchrun.core.schema import json_schema  # what it takes is not needed for --help

    json_schema.require(json_schema.encoded(schema))


def _headers(setting: Setting, value: object, _: UsageError) -> dict[str, str]:
    if not isinstance(value, dict):
        message = f"{setting.name}: expected a table of header names and values"
        raise UsageError(message)
    for name, text in value.items():
        if not _HEADER_NAME.fullmatch(name):
            message = f"{setting.name}: {name!r} is not a header name"
            raise UsageError(message)
        if not isinstance(text, str) or not f"{name}{text}".isascii() or set(text) & set("\r\n\0"):
            # The value may be a credential: it is not repeated here.
            message = f"{setting.name}: the value of {name!r} is not one line of ASCII text"
            raise UsageError(message)
    return value


_EXPECTED = {
    "concurrency": "a whole number, at least 1, or auto",
    "bool": "true or false",
    "bytes": "a number of bytes, such as 500MB or 2GiB",
    "share": "a share from 0% to 100%, such as 5%",
    "bound": "a number of rows, or a share such as 5%",
    "delimiter": "one character, such as ; or |, or tab",
    "encoding": "an encoding whose lines end with a line feed, such as utf-8, cp1252 or utf-16",
    "object": "a table",
    "paths": "a list of file names",
    "dirs": "a list of run directories",
    "columns": "all, none, or column names",
    "names": "a list of column names",
    "header_name": "the name of a header, such as api-key",
    "schema": "a file with a JSON Schema, or the schema as a table",
    "messages": "tables with role and content, written as [[request.messages]]",
    "models": "a list of names, or a table of text",
}


_CHECKS: Mapping[str, Check] = {
    "text": _text,
    "path": _text,
    "paths": _texts,
    "dirs": _texts,
    "names": _names,
    "choice": _choice,
    "int": _number,
    "number": _number,
    "concurrency": _number,
    "bool": _instance_of(bool),
    "bytes": _bytes,
    "share": _bound,
    "bound": _bound,
    "columns": _columns,
    "object": _object,
    "schema": _schema,
    "messages": _messages,
    "headers": _headers,
    "header_name": _header_name,
    "command": _command,
    "webhook": _webhook,
    "provider": lambda _, value, __: provider_named(value).name,
    "models": _models,
    "labels": _labels,
    "prices": lambda _, value, __: own_prices(value),
    "measures": _instance_of(dict),
    "delimiter": _written,
    "encoding": _written,
}
"""By kind what a value must be; returns it as it is used."""


def _expectation(setting: Setting) -> str:
    if setting.kind == "choice":
        return "one of " + ", ".join(setting.choices)
    if setting.kind in ("int", "number"):
        whole = "whole " if setting.kind == "int" else ""
        most = "" if setting.high is None else f" and at most {setting.high:g}"
        return f"a {whole}number, at least {setting.low:g}{most}"
    return _EXPECTED.get(setting.kind, "text")


def parse_param(text: str) -> tuple[str, Any]:
    """One ``KEY=JSON`` flag; a template needs no quotes. Raises ``UsageError`` for any other text
    that is not JSON.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        message = f"--param {text!r}: expected KEY=JSON, such as temperature=0"
        raise UsageError(message)
    try:
        return key, json.loads(value, parse_constant=_refuse_constant)
    except ValueError:
        if is_template(value):
            return key, value
        message = f"--param {key}: {value!r} is not JSON (quote text twice: {key}='\"text\"')"
        raise UsageError(message) from None


def parse_label(text: str) -> tuple[str, str]:
    """One ``KEY=VALUE`` flag; the value is text. Raises ``UsageError``."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        message = f"--label {text!r}: expected KEY=VALUE, such as project=search"
        raise UsageError(message)
    return key.strip(), value.strip()


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def parse_header(text: str) -> tuple[str, str]:
    """One ``'K: V'`` flag. The value is not repeated in the error: it may be a credential."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        message = "--header: expected 'Name: value'"
        raise UsageError(message)
    return name.strip(), value.strip()


def parse_key(text: str, *, source: str) -> str | None:
    """A key as it may go into a header: stripped, or None where empty. ``source`` is named in the
    error ("the key file a.txt").

    Raises ``UsageError`` for line breaks and other control characters inside, and for text that is
    not ASCII, without repeating it.
    """
    key = text.strip()
    if not key.isascii() or not key.isprintable():
        message = (
            f"{source} holds no key that can be sent: there is a line break, a control character "
            "or a character that is not ASCII in it"
        )
        raise UsageError(message)
    return key or None
