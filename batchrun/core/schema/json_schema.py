"""JSON Schemas: compiled once each, and documents held against them.

The library is loaded with the first schema, so a run without one pays nothing. Nothing that a
schema says makes this process fetch anything. The library holds the interpreter's lock while it
validates, so that no timeout could end it; so patterns are matched in linear time or a bounded
number of steps, and a schema that asks for more evaluations of one value than ``WEIGHT_MAX`` is
refused.

``format`` is an annotation here, as the specification has it: it is not checked.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote

import msgspec

from batchrun.errors import NotASchemaError

if TYPE_CHECKING:
    import jsonschema_rs

ENTRIES_MAX = 256
TEXT_BYTES_MAX = 512 * 2**10
"""What is kept compiled: a schema takes about 40 times its text (39 KB for one of 1 KB)."""
WEIGHT_MAX = 100_000
CHAIN_MAX = 200
BACKTRACKS_MAX = 10_000
"""Steps of a pattern that linear matching cannot do; what takes more counts as not matching. Each
may look at the whole text: 2 s for 100 KB at worst, fractions of a millisecond otherwise."""
SAID_MAX = 300
VALUE_MAX = 80
PLACE_MAX = 120

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_DIALECT = re.compile(
    r"https?://json-schema\.org/(draft-0[467]/schema|draft/20(19-09|20-12)/schema|schema)#?"
)
_DRAFT_7 = "http://json-schema.org/draft-07/schema#"


def encoded(schema: object) -> bytes:
    """A schema as text, by which it is known here. Raises ``NotASchemaError``."""
    try:
        return _encode(schema)
    except (UnicodeEncodeError, OverflowError, TypeError, RecursionError) as error:
        raise NotASchemaError(f"it cannot be written as JSON: {error}") from None


def require(text: bytes) -> None:
    """Make sure that JSON text is a schema. Raises ``NotASchemaError``."""
    _compiled(text)


def problem(text: bytes, value: object) -> str | None:
    """Where and why a JSON value does not fit the schema with this text, in one bounded sentence;
    None where it fits. Raises ``NotASchemaError``.
    """
    validator = _compiled(text)
    try:
        if validator.is_valid(value):
            return None
        error = next(validator.iter_errors(value))
    except ValueError as refused:  # half a surrogate pair, or nested too deeply
        return shortened(f"it cannot be checked: {refused}", SAID_MAX)
    place = place_of(error.instance_path)
    said = _said(error.message, error.instance)
    return f"{place}: {said}" if place else said


def place_of(path: Sequence[str | int]) -> str:
    """Where in a document a path leads, as in ``lines[7].price``; empty for the whole."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return shortened(text.removeprefix("."), PLACE_MAX)


def shortened(text: str, length_max: int) -> str:
    """Text with its middle left out where it is too long."""
    if len(text) <= length_max:
        return text
    half = (length_max - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def _said(message: str, instance: object) -> str:
    """The library's message, which begins with the value itself, however long that is."""
    try:
        value = _encode(instance).decode()
    except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError, TypeError):
        value = ""
    if len(value) > VALUE_MAX and message.startswith(value):
        message = shortened(value, VALUE_MAX) + message[len(value) :]
    return shortened(message, SAID_MAX)


class _Kept:
    """Compiled schemas by their text, those used last; a schema that is none is kept as the reason.

    Shared by the threads that make requests and the loop that reads answers.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[bytes, jsonschema_rs.Validator | str] = OrderedDict()
        self._bytes = 0

    def get(self, text: bytes) -> jsonschema_rs.Validator | str | None:
        with self._lock:
            found = self._found.get(text)
            if found is not None:
                self._found.move_to_end(text)
            return found

    def put(self, text: bytes, compiled: jsonschema_rs.Validator | str) -> None:
        with self._lock:
            if text not in self._found:
                self._bytes += len(text)
            self._found[text] = compiled
            while len(self._found) > ENTRIES_MAX or (
                self._bytes > TEXT_BYTES_MAX and len(self._found) > 1
            ):
                gone, _ = self._found.popitem(last=False)
                self._bytes -= len(gone)


_kept = _Kept()


def _compiled(text: bytes) -> jsonschema_rs.Validator:
    found = _kept.get(text)
    if found is None:
        try:
            found = _compile(text)
        except NotASchemaError as error:
            found = str(error)
        _kept.put(text, found)
    if isinstance(found, str):
        raise NotASchemaError(found)
    return found


def _compile(text: bytes) -> jsonschema_rs.Validator:
    """Compile as the dialect that ``$schema`` names. One that is unknown counts as 2020-12; a
    schema that names none and is only valid as draft 7 is read as that.
    """
    try:
        schema = _decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NotASchemaError(f"it cannot be read: {error}") from None
    if not isinstance(schema, (dict, bool)):
        raise NotASchemaError(f"it is {_kind(schema)}, not an object")
    if isinstance(schema, bool):
        return _validator(schema)
    _refuse_heavy(schema)
    named = schema.get("$schema")
    if isinstance(named, str) and not _DIALECT.fullmatch(named):
        schema = {key: value for key, value in schema.items() if key != "$schema"}
    try:
        return _validator(schema)
    except NotASchemaError:
        if named is not None:
            raise
        try:
            return _validator({"$schema": _DRAFT_7, **schema})
        except NotASchemaError:
            pass
        raise


def _validator(schema: Any) -> jsonschema_rs.Validator:
    """Compile with patterns that match in linear time; with look-around and references to groups,
    which need backtracking, in a bounded number of steps.
    """
    import jsonschema_rs

    backtracking = jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACKS_MAX)
    said = ""
    for patterns in (jsonschema_rs.RegexOptions(), backtracking):
        try:
            return jsonschema_rs.validator_for(
                schema,
                retriever=_not_fetched,
                validate_formats=False,
                pattern_options=patterns,
            )
        except jsonschema_rs.ValidationError as error:
            place = place_of(error.instance_path)
            said = _said(error.message, error.instance)
            said = f"at {place}: {said}" if place else said
        except ValueError as error:  # nested too deeply, or text that is none
            said = shortened(str(error), SAID_MAX)
    raise NotASchemaError(said)


def _not_fetched(address: str) -> NoReturn:
    raise ValueError(f"what lies at {address} is not fetched")


def _kind(value: object) -> str:
    names = {list: "a list", str: "text", type(None): "null"}
    return names.get(type(value), "a number")


# How much work a schema asks for

_LISTS = ("allOf", "anyOf", "oneOf")
_SINGLE = ("not", "if", "then", "else")
_TABLES = ("dependentSchemas", "dependencies")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def _refuse_heavy(schema: dict[str, Any]) -> None:
    """Raise where one value would be looked at too often: a chain of twenty definitions that each
    refer to the next one twice makes a million evaluations of one text.
    """
    weigher = _Weigher(schema)
    for node in weigher.nodes:
        weight, length = weigher.weigh(node, 0)
        if weight > WEIGHT_MAX:
            why = f"its references multiply: one value would be checked over {WEIGHT_MAX:,} times"
            raise NotASchemaError(why)
        if length > CHAIN_MAX:
            raise NotASchemaError(f"it chains more than {CHAIN_MAX} schemas for one value")


class _Weigher:
    """Counts the subschemas that are evaluated for one value, what they refer to included."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._names: dict[str, dict[str, Any]] = {"#": root}
        self.nodes: list[dict[str, Any]] = []
        self._known: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()
        waiting: list[Any] = [root]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                self.nodes.append(value)
                for key, sign in (("$anchor", "#"), ("$dynamicAnchor", "#"), ("$id", "")):
                    if isinstance(value.get(key), str):
                        self._names[sign + value[key]] = value
                waiting.extend(value.values())
            elif isinstance(value, list):
                waiting.extend(value)

    def weigh(self, node: dict[str, Any], depth: int) -> tuple[int, int]:
        """The evaluations that one value costs here, and how many stand one behind the other."""
        mark = id(node)
        if mark in self._known:
            return self._known[mark]
        if mark in self._open:  # a loop: the library ends it
            return 0, 0
        if depth > CHAIN_MAX:
            return 0, CHAIN_MAX + 1
        self._open.add(mark)
        weight, length = 1, 0
        for inner in self._applied(node):
            more, longer = self.weigh(inner, depth + 1)
            weight, length = weight + more, max(length, longer)
        self._open.discard(mark)
        self._known[mark] = weight, length + 1
        return weight, length + 1

    def _applied(self, node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The schemas that are applied to the same value as this one."""
        found: list[Any] = [node.get(key) for key in _SINGLE]
        for key in _LISTS:
            listed = node.get(key)
            found += listed if isinstance(listed, list) else ()
        for key in _TABLES:
            table = node.get(key)
            found += table.values() if isinstance(table, dict) else ()
        found += [self._referred(node[key]) for key in _REFERENCES if key in node]
        return (item for item in found if isinstance(item, dict))

    def _referred(self, reference: object) -> object:
        if not isinstance(reference, str):
            return None
        if reference in self._names:
            return self._names[reference]
        address, _, pointer = reference.partition("#")
        value: Any = self._names.get(address, self._root) if address else self._root
        if not pointer.startswith("/"):
            return self._names.get(f"#{pointer}")
        for step in unquote(pointer[1:]).split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            else:
                return None
        return value
