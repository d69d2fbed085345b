"""Messages for a program: keywords of ``batchrun.run`` instead of flags of the command.

Messages are written once, for the command. ``in_keywords`` rewrites the flags in them, and whole
commands: ``--max-cost`` becomes ``max_cost_usd=``, ``--retry-class timeout`` becomes
``retry_class="timeout"``, ``--no-check-schema`` becomes ``check_schema=False``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from batchrun.core.run.changes import RETRY_CLASSES
from batchrun.core.settings import parameters
from batchrun.core.settings.table import BY_NAME, FLAGGED, OLD, SHORT


@dataclass(frozen=True, slots=True)
class _Keyword:
    """The keyword for a flag, and the value for a flag without one. ``key`` marks flags that take
    ``KEY=VALUE``; ``words`` are values that messages name.
    """

    name: str
    value: str | None = None
    key: bool = False
    words: Collection[str] = ()


def _keywords() -> Iterator[tuple[str, _Keyword]]:
    for setting in (*FLAGGED, *SHORT):
        for place, flag in enumerate((setting.flag or "").split("/")):
            if flag and setting.kind == "bool":
                yield flag, _Keyword(setting.keyword, "False" if place else "True")
            elif flag:
                pairs = setting.kind in ("object", "labels")
                words = {"auto", "all", "none", "model", OLD, *setting.choices}
                yield flag, _Keyword(setting.keyword, key=pairs, words=words)
    for name in ("keep_done", "resend_changed", "restart", "retry_failed", "repair"):
        yield f"--{name.replace('_', '-')}", _Keyword(name, "True")
    yield "--retry-class", _Keyword("retry_class", words=RETRY_CLASSES)
    yield "--limit", _Keyword("limit")
    yield "--shard", _Keyword("shard", words=("auto",))
    yield "--workers", _Keyword("workers")
    yield "--config", _Keyword("config")
    yield "-c", _Keyword("config")
    yield "-o", _Keyword("output")
    yield "--output", _Keyword("output")


_FLAGS: Mapping[str, _Keyword] = dict(_keywords())
_NAMES = frozenset(keyword.name for keyword in _FLAGS.values())
_NAMED = re.compile(r"\b([a-z]+\.[a-z_]+) \((--?[a-z][a-z-]*)\)")
"""A setting by its key in the config file, with its flag behind it."""
_KEY = re.compile(r"(?<![\w./-])[a-z]+\.[a-z_]+\b(?!\.\w| in the config file)")
_FLAG = re.compile(
    r"(?<![\w-])(--?[a-z][a-z-]*)(?:(?P<gap>[ =])(?P<value>(?!-)(?:[^\s,;:()`]|:(?!\s|$))+))?"
)
_NEIGHBOURS = re.compile(r"(\b[a-z_]+=[^\s,;:()]+) (?=([a-z_]+)=[^\s=])")
"""Two keywords with nothing but a space between them."""
_SUBJECT = re.compile(r"\b([a-z_]+)=(?=:| is\b)")
"""A keyword that a sentence is about."""
_METAVAR = re.compile(r"[A-Z][A-Z0-9_]*$")
_NUMBER = re.compile(r"-?[0-9.]+$")
_COMMAND = re.compile(r"(?m)^(?P<indent> *)batchrun run (?P<words>.*)$")
COMMANDS = (
    *("validate", "estimate", "doctor", "providers", "status", "ctl", "show", "score", "compare"),
    *("judge", "bless", "query", "report", "runs", "costs", "verify", "export", "init"),
    *("completion", "schema", "simulate"),
)
"""Commands besides ``batchrun run``: a message that names one means the shell."""
_QUOTED = re.compile(
    rf"(`batchrun [^`]*`|^ +batchrun [a-z].*$|\bbatchrun (?:{'|'.join(COMMANDS)})\b"
    r"(?:(?![.;,:](?:\s|$)).)*)",
    re.MULTILINE,
)
"""A command of the shell, to the end of its line or sentence: it stays one."""
_SAME = re.compile(r"\b([Tt]he same) command\b")


def in_keywords(text: str, given: Collection[str] = ()) -> str:
    """The message with keywords instead of flags. Settings with ``given`` keywords are named by
    these (``model``), others as in a config file (``request.model``).
    """
    text = _COMMAND.sub(_call, text)
    pieces = _QUOTED.split(text)
    return "".join(
        piece if place % 2 else _in_prose(piece, given) for place, piece in enumerate(pieces)
    )


def _in_prose(text: str, given: Collection[str]) -> str:
    text = _NAMED.sub(_setting, text)
    text = _KEY.sub(lambda found: _setting_given(found, given), text)
    text = _SAME.sub(r"\1 call", text)
    text = _FLAG.sub(_spelled, text)
    text = _SUBJECT.sub(lambda found: found[1] if found[1] in _NAMES else found[0], text)
    return _NEIGHBOURS.sub(_separated, text)


def _separated(found: re.Match[str]) -> str:
    known = found[1].partition("=")[0] in _NAMES and found[2] in _NAMES
    return f"{found[1]}, " if known else found[0]


def _setting(found: re.Match[str]) -> str:
    keyword = _FLAGS.get(found[2])
    return found[0] if keyword is None else keyword.name


def _setting_given(found: re.Match[str], given: Collection[str]) -> str:
    setting = BY_NAME.get(found[0])
    return found[0] if setting is None or setting.keyword not in given else setting.keyword


def _spelled(found: re.Match[str]) -> str:
    """A flag, and its value if the next word is one."""
    flag, value = found[1], found["value"]
    keyword = _FLAGS.get(flag)
    if keyword is None:
        return found[0]
    rest = "" if value is None else found["gap"] + value
    if keyword.value is not None:
        return f"{keyword.name}={keyword.value}{rest}"
    written = None if value is None else _value(keyword, value.rstrip("."))
    if value is None or written is None:
        return f"{keyword.name}={rest}"
    return f"{keyword.name}={written}" + "." * value.endswith(".")


def _value(keyword: _Keyword, text: str) -> str | None:
    """A value in Python syntax; None for a word that is not a value."""
    if keyword.key:
        key, equals, value = text.partition("=")
        named = equals or key in parameters.SENT
        return f"{{{_word(key)}: {value or '...'}}}" if named else None
    if _METAVAR.match(text) or _NUMBER.match(text):
        return text
    return _word(text) if text in keyword.words or re.search(r"[\d/]", text) else None


def _word(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _call(found: re.Match[str]) -> str:
    """``batchrun run FILE --model M`` as a call of ``batchrun.run``; a command that cannot be
    parsed stays.
    """
    try:
        words = shlex.split(found["words"])
    except ValueError:
        return found[0]
    arguments: list[str] = []
    while words:
        word = words.pop(0)
        keyword = _FLAGS.get(word)
        if keyword is None:
            if word.startswith("-"):
                return found[0]
            arguments.insert(0, "rows" if word.startswith("<") else _word(word))
        elif keyword.value is not None:
            arguments.append(f"{keyword.name}={keyword.value}")
        else:
            value = words.pop(0) if words else "..."
            plain = _NUMBER.match(value) or _value(keyword, value)
            arguments.append(f"{keyword.name}={value if plain else _word(value)}")
    return f"{found['indent']}batchrun.run({', '.join(arguments)})"
