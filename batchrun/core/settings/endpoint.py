"""The settings of one endpoint: where requests go, how fast, with which key and certificates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from batchrun.core.settings import commands
from batchrun.core.settings.charge import Charge
from batchrun.core.settings.presets import KEY_SOURCES, one_source_of_key
from batchrun.core.settings.providers import AUTHORIZATION, BUILT_IN, Provider, provider_named
from batchrun.core.settings.table import AUTO_CONCURRENCY, BY_NAME, DEFAULT_BASE_URL, DEFAULT_KEY
from batchrun.core.text.redact import public_url
from batchrun.core.text.template_syntax import is_template
from batchrun.errors import BatchrunError, UsageError

MODELS_SHOWN = 8
NAME_CHARACTERS_MAX = 100


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go and how fast. The key is not in here; ``api_key_env`` is None where no
    variable belongs to the provider.

    ``charge`` is how it charges its token limit; None: that is learned.
    ``models`` has the names of the models it serves, as rows know them and as it does; None: it
    serves any.
    """

    name: str
    provider: str | None
    base_url: str
    api_key_env: str | None
    api_key_file: str | None
    api_key_command: str | None = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    concurrency: int
    """Requests in flight: the maximum, or with ``bounds`` the first one."""
    rpm: float | None
    tpm: float | None
    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    api_key_header: str = AUTHORIZATION
    charge: Charge | None = None
    models: Mapping[str, str] | None = None
    weight: float = 1.0
    keepalive_s: float = 30.0
    bounds: tuple[int, int] | None = None
    """Between these batchrun finds the concurrency itself; None: it is given."""
    failure: Callable[[], BatchrunError | None] | None = field(
        default=None, repr=False, compare=False
    )
    """Of a server that batchrun started: why it ended, None while it runs. Waits for up to a second
    whether it ends. None for all other servers."""

    @property
    def concurrency_max(self) -> int:
        """The most requests in flight at once."""
        return self.concurrency if self.bounds is None else self.bounds[1]

    def serves(self, model: str) -> bool:
        """Whether rows that ask for this model may go there."""
        return self.models is None or model in self.models

    def public(self) -> dict[str, Any]:
        """All of it as it may be shown. Header values are left out, and so are the arguments of a
        command: they may be keys.
        """
        command = self.api_key_command
        return {
            "name": self.name,
            "provider": self.provider,
            "base_url": public_url(self.base_url),
            "api_key_env": self.api_key_env,
            "api_key_file": self.api_key_file,
            "api_key_command": None if command is None else commands.redact_command(command),
            "api_key_header": self.api_key_header,
            "headers": sorted(self.headers),
            "ca_file": self.ca_file,
            "client_cert": self.client_cert,
            "client_key": self.client_key,
            "concurrency": "auto" if self.bounds else self.concurrency,
            **(
                {"min_concurrency": self.bounds[0], "max_concurrency": self.bounds[1]}
                if self.bounds
                else {}
            ),
            "rpm": self.rpm,
            "tpm": self.tpm,
            "charge": self.charge,
            "models": None if self.models is None else dict(self.models),
            "weight": self.weight,
            "keepalive_s": self.keepalive_s,
        }


def with_one_key(file: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The file's values, without its source of the key where another one is given.

    Raises ``UsageError`` where either names two.
    """
    one_source_of_key(given, _flag_of)
    one_source_of_key(file, str)
    replaced = any(given.get(name) is not None for name in KEY_SOURCES)
    return {key: value for key, value in file.items() if not (replaced and key in KEY_SOURCES)}


def _flag_of(name: str) -> str:
    return BY_NAME[name].flag or name


def endpoint_of(value: Mapping[str, Any]) -> Endpoint:
    """The endpoint by checked values. Raises ``UsageError`` where they do not go together."""
    _check_name(value["endpoint.name"])
    provider = value["endpoint.provider"]
    preset = None if provider is None else provider_named(provider)
    concurrency, bounds = _concurrency(value, preset)
    if value["endpoint.client_key"] is not None and value["endpoint.client_cert"] is None:
        message = "endpoint.client_key (--client-key) is the key of a certificate: give it too, "
        raise UsageError(message + "as endpoint.client_cert (--client-cert)")
    return Endpoint(
        name=value["endpoint.name"] or provider or "default",
        provider=provider,
        base_url=value["endpoint.base_url"] or _base_url(preset),
        api_key_env=value["endpoint.api_key_env"] or _variable(preset),
        api_key_file=value["endpoint.api_key_file"],
        api_key_command=value["endpoint.api_key_command"],
        headers=value["endpoint.headers"],
        concurrency=concurrency,
        rpm=value["endpoint.rpm"],
        tpm=value["endpoint.tpm"],
        charge=_charge(preset, value["endpoint.charge"]),
        ca_file=value["endpoint.ca_file"],
        client_cert=value["endpoint.client_cert"],
        client_key=value["endpoint.client_key"],
        api_key_header=value["endpoint.api_key_header"]
        or _key_header(preset, value["endpoint.api_key_env"]),
        models=value["endpoint.models"],
        weight=value["endpoint.weight"],
        keepalive_s=value["endpoint.keepalive_s"],
        bounds=bounds,
    )


def _concurrency(
    value: Mapping[str, Any], preset: Provider | None
) -> tuple[int, tuple[int, int] | None]:
    """The concurrency, and where it is found during the run the bounds it stays within."""
    given = value["endpoint.concurrency"]
    low, high = value["endpoint.min_concurrency"], value["endpoint.max_concurrency"]
    if low > high:
        message = (
            f"endpoint.min_concurrency (--min-concurrency) is {low:,}, which is more than "
            f"endpoint.max_concurrency (--max-concurrency), {high:,}: raise the second, or lower "
            "the first"
        )
        raise UsageError(message)
    if given != "auto":
        return given, None
    if preset is not None and preset.concurrency is not None:
        return preset.concurrency, None
    first = max(low, min(AUTO_CONCURRENCY, high))
    return (first, None) if low == high else (first, (low, high))


def _check_name(name: str | None) -> None:
    """It stands in tables, and on one line of a terminal."""
    if name is not None and not (name.isprintable() and len(name) <= NAME_CHARACTERS_MAX):
        short = name if len(name) <= NAME_CHARACTERS_MAX else name[:20] + "..."
        message = (
            f"endpoint.name is {short!r}; expected at most {NAME_CHARACTERS_MAX} printable "
            "characters on one line"
        )
        raise UsageError(message)


def told_apart(endpoints: Sequence[Endpoint], given: Sequence[str | None]) -> tuple[Endpoint, ...]:
    """Several endpoints, each with a name of its own: the one given, else that of its provider or
    host, numbered where that does not tell them apart.

    Raises ``UsageError`` where a name was given twice.
    """
    taken = {name for name in given if name is not None}
    named = []
    for endpoint, name in zip(endpoints, given, strict=True):
        if name is None:
            host = urlsplit(endpoint.base_url).netloc.rpartition("@")[2]
            name = _free(endpoint.provider or host or "default", taken)  # noqa: PLW2901
        elif given.count(name) > 1:
            message = f"two [[endpoint]] tables have the name {name!r}: nothing tells them apart"
            raise UsageError(message)
        taken.add(name)
        named.append(replace(endpoint, name=name))
    return tuple(named)


def _free(stem: str, taken: Collection[str]) -> str:
    """The stem, or the first of stem-2, stem-3, ... that is not taken."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


def require_served(endpoints: Sequence[Endpoint], value: Mapping[str, Any]) -> None:
    """Raises ``UsageError`` where nobody serves a model that the settings name."""
    for name in ("request.model", "output.fallback_model"):
        model = value[name]
        if (
            model is None
            or is_template(model)
            or any(endpoint.serves(model) for endpoint in endpoints)
        ):
            continue
        message = f"{name} ({_flag_of(name)}) is {model!r}, and {not_served(endpoints)}"
        raise UsageError(message)


def not_served(endpoints: Sequence[Endpoint]) -> str:
    """What to say of a model that is in no endpoint's ``models``."""
    names = sorted({name for endpoint in endpoints for name in endpoint.models or ()})
    few = ", ".join(names[:MODELS_SHOWN]) + (", ..." if len(names) > MODELS_SHOWN else "")
    return f"no endpoint serves it: endpoint.models has {few}"


def _base_url(preset: Provider | None) -> str:
    if preset is None or preset.name in BUILT_IN:  # theirs is known once they run
        return DEFAULT_BASE_URL
    if preset.base_url is None:
        message = (
            f"no base URL: provider {preset.name} has one for every customer; set "
            f"{preset.url_variables[0]}, or give it with --base-url"
        )
        raise UsageError(message)
    return preset.base_url


def _variable(preset: Provider | None) -> str | None:
    if preset is None:
        return DEFAULT_KEY
    return preset.keys[0].name if preset.keys else None


def _charge(preset: Provider | None, given: str | None) -> Charge | None:
    if given is not None:
        return Charge(given)
    return None if preset is None else preset.charge


def _key_header(preset: Provider | None, variable: str | None) -> str:
    """The header of the key, by its variable: a provider may take one kind of key in another."""
    if preset is None:
        return AUTHORIZATION
    by_variable = {key.name: key.header for key in preset.keys}
    return by_variable.get(variable or "", preset.key_header)
