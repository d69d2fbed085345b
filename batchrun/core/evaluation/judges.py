"""Judges: second models that rate a run's answers; their verdicts become columns of its scores.

The tables ``[judge.NAME]`` name them. Each judge has its own config, with its prompt and the JSON
Schema of its verdicts. Each plain field of the schema is a column ``NAME.FIELD``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from batchrun.core.evaluation import rules
from batchrun.core.schema.fields import Field, plain_fields
from batchrun.core.schema.response_format import schema_of
from batchrun.errors import UsageError

JUDGE, JUDGES = "judge", "judges"
"""The table of a config; the folder of a run directory, and the key of its summary."""
WINNER, TIE = "winner", "tie"
"""The field that a judge of pairs answers, and its value for answers that are equally good."""
SIDES = ("a", "b")
COUNT_MAX = 20
"""Judges that a run may have."""
AGREEMENT, KAPPA = "agreement", "kappa"
"""Metrics of a judge that is compared with human labels."""
COUNTS = ("rows", "unparsed", "failed", "stale", "missing", "flips")
"""What is counted of a judge."""

_NAME = re.compile(r"[^\W\d][\w-]{0,63}")
_KEYS = ("config", "score", "agreement", "allow_self")
_REQUEST = "request."
SWAPPED = "swapped"
"""The folder of a judge of pairs that has the verdicts on swapped answers."""
FROM_AGAINST, FROM_BOTH = "input.against", "input.both_orders"
"""What a judge of pairs records: the other run, and whether each pair is judged in both orders."""
_NOT_ASKED = ("request.stream",)
"""Settings of a request that change nothing of what is asked."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A judge of a run. ``config`` is the file that says what it is asked, None for one that was
    started by itself; ``score`` is the field that is compared with the column ``agreement`` of
    human labels; ``allow_self`` lets a model judge its own answers.
    """

    name: str
    config: str | None = None
    score: str | None = None
    agreement: str | None = None
    allow_self: bool = False

    @staticmethod
    def checked(
        name: str,
        config: str | None,
        score: str | None,
        agreement: str | None,
        *,
        allow_self: bool,
    ) -> Judge:
        """A judge that a command names. Raises ``UsageError`` for what cannot be its name."""
        require_name(name)
        return Judge(name, config, score, agreement, allow_self)

    @property
    def key(self) -> str:
        """What messages call it."""
        return f"{JUDGE}.{self.name}"

    @property
    def folder(self) -> str:
        """The judge's run directory, inside the run directory."""
        return folder_of(self.name)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that it has by itself."""
        named = self.agreement is not None
        return (f"{self.name}.{AGREEMENT}", f"{self.name}.{KAPPA}") if named else ()

    def public(self) -> dict[str, Any]:
        """As a config has it, with nothing that is the default."""
        told = {"config": self.config, "score": self.score, "agreement": self.agreement}
        found: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
        return found | ({"allow_self": True} if self.allow_self else {})


@dataclass(frozen=True, slots=True)
class Asked:
    """What a judge is asked: the fields of its verdicts; by what this is known again; and whether
    it compares two answers, in both orders.
    """

    fields: tuple[Field, ...]
    digest: str
    pairs: bool = False
    both_orders: bool = False

    @property
    def orders(self) -> tuple[bool, ...]:
        """The orders in which answers are judged: as they are, and swapped."""
        return (False, True) if self.both_orders else (False,)

    def compared(self, judge: Judge) -> Field:
        """The field that is compared with human labels: the one that the judge names, else the one
        with the judge's name, else the first that is no free text. Raises ``UsageError``.
        """
        by_name = {field.name: field for field in self.fields}
        if judge.score is not None:
            if judge.score not in by_name:
                message = (
                    f"{judge.key}.score is {judge.score!r}, and the schema of the judge has no "
                    f"such field; there are {', '.join(by_name) or 'none'}"
                )
                raise UsageError(message)
            return by_name[judge.score]
        closed = [field for field in self.fields if field.kind != "text" or field.choices]
        if judge.name in by_name:
            return by_name[judge.name]
        if not closed:
            message = (
                f"{judge.key}.agreement: the schema has no field of numbers, booleans or listed "
                f"values to compare with {judge.agreement}; name one with {judge.key}.score"
            )
            raise UsageError(message)
        return closed[0]


def folder_of(name: str) -> str:
    """The run directory of a judge, inside the directory of the run that it judges."""
    return f"{JUDGES}/{name}"


def column_of(judge: str, field: str) -> str:
    """The column of a field of a judge's verdicts."""
    return f"{judge}.{field}"


def judges(given: object) -> tuple[Judge, ...]:
    """The tables ``[judge.NAME]``. Raises ``UsageError`` naming the key."""
    if not isinstance(given, Mapping):
        message = f"{JUDGE} is {given!r}; expected tables [judge.NAME]"
        raise UsageError(message)
    if len(given) > COUNT_MAX:
        message = f"there are {len(given)} judges; at most {COUNT_MAX} are allowed"
        raise UsageError(message)
    seen: dict[str, str] = {}
    for name in given:
        require_name(name)
        if name.casefold() in seen:
            message = f"{JUDGE}.{name} and {JUDGE}.{seen[name.casefold()]} differ only in case"
            raise UsageError(message)
        seen[name.casefold()] = name
    return tuple(_judge(name, one) for name, one in given.items())


def is_name(name: object) -> bool:
    """Whether it can be the name of a judge, and so of a folder."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def require_name(name: str) -> None:
    """Raises ``UsageError`` for what cannot be the name of a judge."""
    if not is_name(name):
        message = (
            f"{name!r} cannot be the name of a judge: a name has letters, digits, _ and -, begins "
            "with a letter or _, and has at most 64 of them"
        )
        raise UsageError(message)


def _judge(name: str, given: object) -> Judge:
    key = f"{JUDGE}.{name}"
    if not isinstance(given, Mapping):
        message = f'{key} is {given!r}; expected a table with config = "FILE.toml"'
        raise UsageError(message)
    rules.require_keys(key, given, _KEYS)
    for word in ("config", "score", "agreement"):
        value = given.get(word)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            message = f"{key}.{word} is {value!r}; expected text"
            raise UsageError(message)
    if not isinstance(given.get("allow_self", False), bool):
        message = f"{key}.allow_self is {given['allow_self']!r}; expected true or false"
        raise UsageError(message)
    return Judge(
        name,
        given.get("config"),
        given.get("score"),
        given.get("agreement"),
        given.get("allow_self", False),
    )


def asked_by(settings: Mapping[str, Any], name: str) -> Asked:
    """What a judge of these recorded settings is asked. Raises ``UsageError`` where its verdicts
    have no fields to read.
    """
    schema = schema_of(settings.get("request.schema"))
    key = f"{JUDGE}.{name}"
    if schema is None:
        message = (
            f"{key} has no JSON Schema: set request.schema in its config, so that its verdicts can "
            "be read"
        )
        raise UsageError(message)
    fields = plain_fields(schema)
    if not fields:
        message = (
            f"{key}: the JSON Schema has no top-level field that is a number, a boolean or text"
        )
        raise UsageError(message)
    seen: dict[str, str] = {}
    for field in fields:
        if field.name.casefold() in seen:
            one = seen[field.name.casefold()]
            message = (
                f"{key}: the fields {one!r} and {field.name!r} of its schema differ only in case"
            )
            raise UsageError(message)
        seen[field.name.casefold()] = field.name
    asked = {
        setting: value
        for setting, value in settings.items()
        if setting.startswith(_REQUEST) and setting not in _NOT_ASKED
    }
    pairs, both = settings.get(FROM_AGAINST) is not None, bool(settings.get(FROM_BOTH))
    known = json.dumps([asked, pairs, both], sort_keys=True)
    found = Asked(fields, sha256(known.encode()).hexdigest(), pairs, both)
    if pairs:
        require_winner(found, name)
    return found


def require_winner(asked: Asked, name: str) -> None:
    """Raises ``UsageError`` where a judge of pairs cannot name the better answer."""
    wanted = {*SIDES, TIE}
    found = next((field for field in asked.fields if field.name == WINNER), None)
    if found is None or found.kind != "text" or (found.choices and set(found.choices) != wanted):
        message = (
            f'{JUDGE}.{name}: with --against, its JSON Schema needs a field "{WINNER}" that is one '
            f'of "a", "b" and "{TIE}"'
        )
        raise UsageError(message)


def in_pair(verdicts: Sequence[str | None], *, both: bool) -> tuple[str | None, bool]:
    """Who won a pair, and whether the verdict changed with the order of the answers. ``verdicts``
    are those of the order a, b and of the swapped one, in which the names mean the other answer.
    """
    if not both:
        return verdicts[0], False
    first, swapped = verdicts
    if first is None or swapped is None:
        return None, False
    second = {"a": "b", "b": "a"}.get(swapped, swapped)
    return (first, False) if first == second else (TIE, True)


def same_model(judge: str | None, answered: Sequence[str | None]) -> str | None:
    """The model among those that answered which a judge of this model is, by its name: whatever its
    case, and with or without the name of who made it before a slash.
    """
    if judge is None:
        return None
    own = _plain(judge)
    return next((name for name in answered if name is not None and _plain(name) == own), None)


def _plain(model: str) -> str:
    return model.rpartition("/")[2].casefold()
