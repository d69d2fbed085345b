"""The resolved settings of a run.

Raw values from the config file, the environment and the flags are laid over each other (a flag wins
over the environment, which wins over the file) and turned into ``Settings`` once; nobody
downstream checks again.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import PurePath
from typing import Any

from batchrun.core.cost.money import PICODOLLARS, usd
from batchrun.core.cost.price_table import PRICES, OwnPrice, exact_prices
from batchrun.core.evaluation.definitions import Evaluation, evaluation
from batchrun.core.evaluation.judges import FROM_AGAINST, FROM_BOTH, JUDGE
from batchrun.core.input.repeats import whole_rows
from batchrun.core.settings import parameter_flags, parameters, presets, reasoning_models
from batchrun.core.settings.addresses import format_address, local_path, scheme_of
from batchrun.core.settings.bounds import Bounds
from batchrun.core.settings.differences import IMPLIED, REPEAT
from batchrun.core.settings.endpoint import (
    Endpoint,
    endpoint_of,
    require_served,
    told_apart,
    with_one_key,
)
from batchrun.core.settings.misplaced_keys import key_meant, table_meant
from batchrun.core.settings.presets import from_environment
from batchrun.core.settings.reading import Reading
from batchrun.core.settings.table import BY_NAME, LABELS, OLD, SECTIONS, TABLE, Setting
from batchrun.core.settings.values import check_input, check_request, checked
from batchrun.core.text.byte_sizes import Bytes
from batchrun.core.text.redact import public_url
from batchrun.core.text.template_syntax import SERVERS_OWN, is_template
from batchrun.errors import UsageError

__all__ = ["Endpoint", "Raw", "Settings", "from_environment", "from_toml", "lay_over", "resolve"]

_WORDS = {"paths": "-", "dirs": OLD}
"""Kinds that are lists of paths, and the text among them that is none."""
MEASURES = ("scores", "metrics", "gates", JUDGE)
"""Tables whose keys are names that the user chose."""
Raw = dict[str, Any]
"""Values by ``section.key``, not checked yet. Where there are several ``[[endpoint]]`` tables, they
are a list of such values under ``endpoints``."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one run, checked. Paths are as given, relative to the working directory.

    ``schema`` is the whole ``response_format`` that asks for it. ``think_implied`` says that nobody
    set ``think``: it follows from the model, and in a run directory from what is recorded there.
    ``source`` is the run directory of ``--from``: then ``files`` is empty.
    """

    files: tuple[str, ...]
    format: str
    quoting: str | None
    delimiter: str | None
    encoding: str | None
    carry: str | tuple[str, ...]
    dir: str
    checkpoint: str
    raw: str
    requests: str
    shard_rows: int
    model: str | None
    system: str | None
    prompt: str | None
    messages: tuple[Mapping[str, Any], ...]
    image: tuple[str, ...]
    file: tuple[str, ...]
    params: Mapping[str, Any]
    schema: Mapping[str, Any] | None
    stream: bool
    on_truncation: str
    truncation_limit: int | None
    on_empty: str
    fallback_model: str | None
    think: str
    accept_fenced: bool
    check_schema: bool
    check_tools: bool
    endpoints: tuple[Endpoint, ...]
    max_attempts: int
    timeout_s: float
    connect_timeout_s: float
    max_wait_s: float
    max_response_bytes: int
    bounds: Bounds
    repeated_failure: bool
    deadline_s: float | None
    min_free_disk: Bytes
    grace_s: float
    max_cost_pd: int | None
    max_total_tokens: int | None
    prices: Mapping[str, OwnPrice]
    limit: int | None = None
    """The first row that is not run: with repeats, in rows of the results."""
    repeat: int = 1
    """How often each row of the input is sent."""
    think_implied: bool = False
    sample: int | None = None
    sample_seed: int = 0
    send: str | tuple[str, ...] | None = None
    identity: str | None = None
    reuse: tuple[str, ...] = ()
    lengths_from: str | None = None
    source: str | None = None
    source_status: str = "ok"
    allow_partial: bool = False
    source_recorded: str | None = None
    """What is recorded of ``source``, if not its name: a judge reads the run that it is in."""
    against: str | None = None
    both_orders: bool = False
    swapped: bool = False
    """Of a judge of pairs: the other run, whether each pair is judged in both orders, and whether
    this is the one in which the answers changed places."""
    turns: str | None = None
    evaluation: Evaluation = field(default_factory=Evaluation)
    labels: Mapping[str, str] = field(default_factory=dict)
    on_finish: str | None = field(default=None, repr=False)
    webhook: str | None = field(default=None, repr=False)
    metrics_file: str | None = None
    """These three are for this session: they are neither recorded nor shown."""

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint of a run that has one; the first where there are several."""
        return self.endpoints[0]

    @property
    def reading(self) -> Reading:
        """How the input of a new run is read."""
        return Reading(quoting=self.quoting, delimiter=self.delimiter, encoding=self.encoding)

    def defaults(self) -> dict[str, Any]:
        """The body parameters of rows that do not set them, the same for every row."""
        rendered = self.templated()
        found = {key: value for key, value in self._defaults().items() if key not in rendered}
        if self.schema is not None:
            found["response_format"] = self.schema
        return found

    def templated(self) -> dict[str, Any]:
        """The body parameters of rows that do not set them, as templates over the row's columns."""
        return {
            key: value
            for key, value in self._defaults().items()
            if key not in SERVERS_OWN and is_template(value)
        }

    def _defaults(self) -> dict[str, Any]:
        model = {} if self.model is None else {"model": self.model}
        # As in a row: `extra_body` is the libraries' name for what goes into the body.
        plain = {key: value for key, value in self.params.items() if key != "extra_body"}
        return {**plain, **self.params.get("extra_body", {}), **model}

    @property
    def has_model(self) -> bool:
        """Whether the settings name a model for rows that do not."""
        return self._defaults().get("model") is not None

    @property
    def one_model(self) -> str | None:
        """The model of rows that send none, where it is the same for all of them."""
        return None if is_template(self.model) else self.model

    def recorded_by(self, recorded: Mapping[str, Any] | None) -> Settings:
        """The settings on a run directory that recorded these shaping settings, None for a new one.
        What follows from a model's name is decided once, when a run begins.
        """
        if recorded is None or not self.think_implied:
            return self
        return replace(self, think=recorded.get("output.think", IMPLIED["output.think"]))

    @property
    def has_budget(self) -> bool:
        """Whether what a request costs at most must be known before it is sent."""
        return self.max_cost_pd is not None or self.max_total_tokens is not None

    @property
    def makes_messages(self) -> bool:
        """Whether rows without messages are turned into some."""
        return self.prompt is not None or self.system is not None or bool(self.messages)

    @property
    def is_planned(self) -> bool:
        """Whether requests are made by a plan (``core.request.prompt``), not just from bodies."""
        named = self.send is not None or self.identity is not None
        named = named or self.turns is not None or self.repeat > 1
        return named or self.makes_messages or bool(self.templated())

    def shaping(self) -> dict[str, Any]:
        """The settings that shape requests and parts, which a resumed run must share."""
        return {
            "input.carry": list(self.carry) if isinstance(self.carry, tuple) else self.carry,
            "input.send": list(self.send) if isinstance(self.send, tuple) else self.send,
            "input.id": self.identity,
            "input.sample": self.sample,
            "input.sample_seed": None if self.sample is None else self.sample_seed,
            "output.shard_rows": self.shard_rows,
            "request.model": self.model,
            "request.system": self.system,
            "request.prompt": self.prompt,
            # None where nothing is set, as in a run directory of a version without it.
            "request.messages": list(self.messages) or None,
            "request.turns": self.turns,
            "request.image": list(self.image) or None,
            "request.file": list(self.file) or None,
            "request.params": dict(self.params),
            "request.schema": self.schema,
            "request.stream": self.stream,
            "output.think": self.think,
            "output.accept_fenced": self.accept_fenced,
            "input.from": self._source_name(),
            "input.from_status": None if self.source is None else self.source_status,
            **self._paired(),
            **({} if self.repeat == 1 else {REPEAT: self.repeat}),
        }

    def _source_name(self) -> str | None:
        """What is recorded of the source; None where files are the input."""
        return None if self.source is None else self.source_recorded or format_address(self.source)

    def _paired(self) -> dict[str, Any]:
        """What is recorded of a judge of pairs; nothing for other runs."""
        if self.against is None:
            return {}
        return {
            FROM_AGAINST: format_address(self.against),
            FROM_BOTH: self.both_orders,
            "input.swapped": self.swapped,
        }

    def public(self) -> dict[str, Any]:
        """All settings as they may be shown."""
        return self.shaping() | {
            "input.files": [public_url(f) if "://" in f else f for f in self.files],
            "input.format": self.format,
            "input.quoting": self.quoting,
            "input.delimiter": self.delimiter,
            "input.encoding": self.encoding,
            **(
                {"input.reuse": [format_address(name) for name in self.reuse]} if self.reuse else {}
            ),
            **(
                {}
                if self.lengths_from is None
                else {"input.lengths_from": format_address(self.lengths_from)}
            ),
            "output.dir": format_address(self.dir),
            "output.checkpoint": self.checkpoint,
            "output.raw": self.raw,
            **({} if self.requests == "none" else {"output.requests": self.requests}),
            "endpoint": [endpoint.public() for endpoint in self.endpoints],
            "output.on_truncation": self.on_truncation,
            "output.truncation_limit": self.truncation_limit,
            "output.on_empty": self.on_empty,
            "output.fallback_model": self.fallback_model,
            "output.check_schema": self.check_schema,
            "output.check_tools": self.check_tools,
            "retry.max_attempts": self.max_attempts,
            "retry.timeout_s": self.timeout_s,
            "retry.connect_timeout_s": self.connect_timeout_s,
            "retry.max_wait_s": self.max_wait_s,
            "retry.max_response_bytes": self.max_response_bytes,
            "guards.max_failures": self.bounds.failures and str(self.bounds.failures),
            "guards.max_truncated": self.bounds.truncated and str(self.bounds.truncated),
            "guards.max_empty": self.bounds.empty and str(self.bounds.empty),
            "guards.repeated_failure": self.repeated_failure,
            "guards.deadline_s": self.deadline_s,
            "guards.min_free_disk": int(self.min_free_disk),
            "guards.grace_s": self.grace_s,
            "guards.max_cost_usd": None if self.max_cost_pd is None else usd(self.max_cost_pd),
            "guards.max_total_tokens": self.max_total_tokens,
            "prices": {model: own.public() for model, own in self.prices.items()},
            "limit": None if self.limit is None else self.limit // self.repeat,
            **self.evaluation.public(),
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
            message = f"{path}: unknown table [{section}]{table_meant(section)}"
            raise UsageError(message)
        if section == PRICES:
            raw[PRICES] = exact_prices(text, path=path)
            continue
        if section in MEASURES:
            raw[section] = _measures_located(section, given, folder)
            continue
        if section == LABELS:
            raw[LABELS] = given
            continue
        if section != "endpoint":
            raw |= _table(section, given, path, folder)
            continue
        if not isinstance(given, list) or not given:
            message = f"{path}: write the endpoint as [[endpoint]]"
            raise UsageError(message)
        tables = [_table(section, table, path, folder) for table in given]
        raw |= {"endpoints": tables} if len(tables) > 1 else tables[0]
    return raw


def _table(section: str, content: object, path: str, folder: PurePath) -> Raw:
    """The raw values of one table."""
    if not isinstance(content, dict):
        message = f"{path}: [{section}] must be a table"
        raise UsageError(message)
    known = [setting.key for setting in TABLE if setting.section == section]
    raw: Raw = {}
    for key, value in content.items():
        if key not in known:
            message = f"{path}: unknown key {section}.{key}{key_meant(section, key, known)}"
            raise UsageError(message)
        raw[f"{section}.{key}"] = _located(BY_NAME[f"{section}.{key}"], value, folder)
    return raw


def _measures_located(section: str, given: object, folder: PurePath) -> object:
    """Such a table, with its paths relative to a folder: files of Python scorers, the baseline,
    the configs of judges.
    """
    if not isinstance(given, dict):
        return given
    found = dict(given)
    for name, entry in given.items():
        if not isinstance(entry, dict):
            continue
        key = {"scores": "python", "gates": "baseline", JUDGE: "config"}.get(section)
        path = entry.get(key) if key is not None else None
        if isinstance(path, str) and path and not scheme_of(path) and not path.startswith("~"):
            found[name] = entry | {key: str(folder / path)}
    return found


def _located(setting: Setting, value: object, folder: PurePath) -> object:
    """Paths relative to a folder; ``~`` stays for whoever knows where it is."""
    if setting.kind in ("path", "schema") and isinstance(value, str):
        return value if scheme_of(value) or value.startswith("~") else str(folder / value)
    if setting.kind == "dirs" and isinstance(value, str):
        value = [value]
    if setting.kind in _WORDS and isinstance(value, list):
        word = _WORDS[setting.kind]
        return [
            str(folder / item)
            if isinstance(item, str) and "://" not in item and item[:1] != "~" and item != word
            else item
            for item in value
        ]
    return value


def lay_over(file: Raw, environment: Mapping[str, str], given: Raw) -> tuple[Raw, list[str]]:
    """What is given wins over the environment, which wins over the file; and warnings about it.

    Tables (parameters, headers; not a schema) are added to those of the file, key by key. Raises
    ``UsageError`` where ``given`` names two endpoints, either names two sources of the key, or the
    provider is not known; and where it sets what each of several endpoints has of its own.
    """
    file, warnings = presets.kept_for_provider(file, given)
    given = parameter_flags.with_short_parameters(given, file, environment)
    raw = with_one_input(with_one_key(file, given), given)
    for name, value in given.items():
        before = raw.get(name)
        both = isinstance(before, dict) and isinstance(value, dict) and name != "request.schema"
        if name == "request.params" and isinstance(before, dict) and isinstance(value, dict):
            raw[name] = parameters.flags_over(before, value)
        else:
            raw[name] = before | value if both else value
    if "endpoints" in file:
        tables, more = presets.surroundings_of_several(raw, environment)
        return raw | {"endpoints": tables}, warnings + more
    found, more = presets.surroundings(raw, given, environment)
    return raw | found, warnings + more


def with_one_input(raw: Raw, given: Raw) -> Raw:
    """The raw values of a file without the input that it names, where ``given`` names another:
    files or ``--from``.
    """
    others = {"input.from": ("input.files",), "input.files": ("input.from", "input.from_status")}
    replaced = {name for key, names in others.items() if key in given for name in names}
    return {name: value for name, value in raw.items() if name not in replaced}


def _check_rows(value: Mapping[str, Any], raw: Raw, limit: int | None) -> None:
    """Whether there is a run directory, and which rows it is for. Raises ``UsageError``."""
    if value["output.dir"] is None:
        message = "no run directory: give one with -o DIR, or set output.dir in the config file"
        raise UsageError(message)
    if limit is not None and limit < 1:
        message = f"--limit is {limit}; it must be at least 1"
        raise UsageError(message)
    if value["input.sample"] is None and raw.get("input.sample_seed") is not None:
        message = "--sample-seed N requires --sample N"
        raise UsageError(message)


def resolve(raw: Raw, *, limit: int | None = None) -> Settings:
    """Check raw values and fill in the defaults. Raises ``UsageError`` naming the setting."""
    value = {setting.name: _value(setting, raw) for setting in TABLE}
    check_input(value)
    _check_rows(value, raw, limit)
    check_request(value)
    endpoints = _endpoints(raw, value)
    require_served(endpoints, value)
    think = value["output.think"]
    return Settings(
        files=tuple(value["input.files"]),
        format=value["input.format"],
        quoting=value["input.quoting"],
        delimiter=value["input.delimiter"],
        encoding=value["input.encoding"],
        carry=value["input.carry"],
        dir=local_path(value["output.dir"]) or value["output.dir"],
        checkpoint=_checkpoint(value["output.dir"], value["output.checkpoint"]),
        raw=value["output.raw"],
        requests=value["output.requests"],
        shard_rows=whole_rows(value["output.shard_rows"], value[REPEAT]),
        model=value["request.model"],
        system=value["request.system"],
        prompt=value["request.prompt"],
        messages=tuple(value["request.messages"]),
        image=value["request.image"],
        file=value["request.file"],
        params=value["request.params"],
        schema=value["request.schema"],
        stream=value["request.stream"],
        on_truncation=value["output.on_truncation"],
        truncation_limit=value["output.truncation_limit"],
        on_empty=value["output.on_empty"],
        fallback_model=value["output.fallback_model"],
        think=think or reasoning_models.implied(value, endpoints),
        accept_fenced=value["output.accept_fenced"],
        check_schema=value["output.check_schema"],
        check_tools=value["output.check_tools"],
        endpoints=endpoints,
        max_attempts=value["retry.max_attempts"],
        timeout_s=value["retry.timeout_s"],
        connect_timeout_s=value["retry.connect_timeout_s"],
        max_wait_s=value["retry.max_wait_s"],
        max_response_bytes=value["retry.max_response_bytes"],
        bounds=Bounds(
            value["guards.max_failures"], value["guards.max_truncated"], value["guards.max_empty"]
        ),
        repeated_failure=value["guards.repeated_failure"],
        deadline_s=value["guards.deadline_s"],
        min_free_disk=value["guards.min_free_disk"],
        grace_s=value["guards.grace_s"],
        max_cost_pd=_picodollars(value["guards.max_cost_usd"]),
        max_total_tokens=value["guards.max_total_tokens"],
        prices=value["prices"],
        limit=None if limit is None else limit * value[REPEAT],
        repeat=value[REPEAT],
        think_implied=think is None,
        sample=value["input.sample"],
        sample_seed=value["input.sample_seed"],
        send=value["input.send"],
        # The column has this name anyhow.
        identity=None if value["input.id"] == "custom_id" else value["input.id"],
        reuse=tuple(value["input.reuse"]),
        lengths_from=value["input.lengths_from"],
        source=value["input.from"],
        source_status=value["input.from_status"],
        allow_partial=value["input.allow_partial"],
        turns=value["request.turns"],
        evaluation=evaluation(*(value[name] for name in MEASURES)),
        labels=value[LABELS],
        on_finish=value["notify.on_finish"],
        webhook=value["notify.webhook"],
        metrics_file=value["notify.metrics_file"],
    )


def _picodollars(given_usd: float | None) -> int | None:
    """An amount as it is written, exactly."""
    return None if given_usd is None else int(Decimal(str(given_usd)) * PICODOLLARS)


def _value(setting: Setting, raw: Mapping[str, Any]) -> Any:
    given = raw.get(setting.name)
    return setting.default if given is None else checked(setting, given)


def _endpoints(raw: Raw, value: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    tables = raw.get("endpoints")
    if tables is None:
        return (endpoint_of(value),)
    own = [setting for setting in TABLE if setting.section == "endpoint"]
    found = []
    for number, table in enumerate(tables, 1):
        try:
            found.append(endpoint_of({setting.name: _value(setting, table) for setting in own}))
        except UsageError as error:
            message = f"[[endpoint]] table {number}: {error}"
            raise UsageError(message) from None
    return told_apart(found, [table.get("endpoint.name") for table in tables])


def _checkpoint(directory: str, given: str | None) -> str:
    """Where the checkpoint lives: logs and locks need a local disk."""
    if given is not None:
        local = local_path(given)
        if local is None:
            message = (
                f"--checkpoint {format_address(given)}: the checkpoint must be on a local disk"
            )
            raise UsageError(message)
        return local
    local = local_path(directory)
    if local is None:
        message = (
            f"-o {format_address(directory)} is an object store: name a folder on a local disk "
            "for the checkpoint with --checkpoint DIR (or output.checkpoint in the config file), "
            "and the same one whenever this run goes on"
        )
        raise UsageError(message)
    return str(PurePath(local, "checkpoint"))
