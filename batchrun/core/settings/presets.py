"""What a provider's name, and the variables that speak of it, set of an endpoint.

A name fills in what the user leaves open: base URL, variable of the key, header of the key. It is
also a border: a key, a header or a URL that was meant for one server must not reach another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from batchrun.core.settings.azure import azure_url
from batchrun.core.settings.providers import BUILT_IN, provider_named
from batchrun.core.settings.table import BY_NAME
from batchrun.core.text.template_syntax import is_template
from batchrun.errors import UsageError

KEY_SOURCES = tuple(f"endpoint.api_key_{kind}" for kind in ("env", "file", "command"))
"""The settings that say where the key comes from, of which one counts."""
LIMITS = tuple(
    f"endpoint.{key}" for key in ("concurrency", "min_concurrency", "max_concurrency", "rpm", "tpm")
)
"""What is left of the file's endpoint where a flag names another provider."""
OPENAI, AZURE = "openai", "azure"


def from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Raw values that the environment sets, and warnings about it. Empty counts as unset."""
    url = environment.get("OPENAI_BASE_URL") or None
    legacy = environment.get("OPENAI_API_BASE") or None
    warnings = []
    if url and legacy and url != legacy:
        warnings.append("OPENAI_BASE_URL and OPENAI_API_BASE differ; OPENAI_BASE_URL is used")
    chosen = url or legacy
    return ({"endpoint.base_url": chosen} if chosen else {}), warnings


def one_source_of_key(values: Mapping[str, Any], spell: Callable[[str], str]) -> None:
    """Raises ``UsageError`` where the values name two sources of the key, spelled like that."""
    named = [spell(name) for name in KEY_SOURCES if values.get(name) is not None]
    if len(named) > 1:
        message = f"{' and '.join(named)} are {len(named)} sources of the key; give one of them"
        raise UsageError(message)


def kept_for_provider(
    file: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The file's values as far as they go with the provider that ``given`` names, and warnings.

    Of an endpoint that is another one only the limits stay. Raises ``UsageError`` where ``given``
    names a built-in provider and a URL: such a provider has none before it runs.
    """
    name = given.get("endpoint.provider")
    raw = dict(file)
    if "endpoints" in raw:
        return _kept_of_several(raw, given)
    if "endpoint.base_url" in given:
        if name in BUILT_IN:
            message = f"--provider {name} and --base-url name two endpoints; give one of them"
            raise UsageError(message)
        if name is None and raw.get("endpoint.provider") in BUILT_IN:
            del raw["endpoint.provider"]
    if name is None or name == raw.get("endpoint.provider"):
        return raw, []
    others = [key for key in raw if key.startswith("endpoint.") and key not in LIMITS]
    left = [key.partition(".")[2] for key in others if raw.pop(key) is not None]
    if not left or name in BUILT_IN:
        return raw, []
    return raw, [
        f"--provider {name} is another endpoint than the config file's; not taken from there: "
        + ", ".join(sorted(left))
    ]


def _kept_of_several(
    raw: dict[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """All tables, or none of them where ``given`` names an endpoint."""
    flags = [BY_NAME[key].flag or key for key in given if key.startswith("endpoint.")]
    if not flags:
        return raw, []
    count = len(raw["endpoints"])
    named = [key for key in ("endpoint.provider", "endpoint.base_url") if key in given]
    if not named:
        message = (
            f"{' and '.join(flags)}: the config file has {count} [[endpoint]] tables, and each has "
            "its own; set it there"
        )
        raise UsageError(message)
    del raw["endpoints"]
    flag = BY_NAME[named[0]].flag
    return raw, [f"{flag} names the endpoint: the {count} of the config file are not used"]


def surroundings_of_several(
    raw: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The tables under ``endpoints``, completed by what provider and environment say of each.

    A variable that names a base URL speaks of one endpoint, so it fills in what a table leaves
    open and wins over none. Raises ``UsageError`` that says which table is wrong.
    """
    tables, warnings = [], []
    shared = {key: value for key, value in raw.items() if not key.startswith("endpoint")}
    for number, table in enumerate(raw["endpoints"], 1):
        try:
            one_source_of_key(table, str)
            found, more = surroundings(shared | table, table, environment)
        except UsageError as error:
            message = f"[[endpoint]] table {number}: {error}"
            raise UsageError(message) from None
        tables.append(table | found)
        warnings += more
    return tables, list(dict.fromkeys(warnings))


def surroundings(
    raw: Mapping[str, Any], given: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """What provider and environment say of the endpoint in ``raw``, and warnings. ``given`` wins
    over it: a base URL that stands there is only completed.

    Raises ``UsageError`` for an unknown provider.
    """
    found: dict[str, Any] = {}
    warnings: list[str] = []
    if raw.get("endpoint.provider") is None:
        found, warnings = from_environment(environment)
        return ({} if "endpoint.base_url" in given else found), warnings
    provider = provider_named(raw["endpoint.provider"])
    if "endpoint.base_url" not in given:
        # Variables of one provider do not capture the run of another.
        if provider.name == OPENAI:
            found, warnings = from_environment(environment)
        else:
            urls = (environment.get(name, "").strip() for name in provider.url_variables)
            found = next(({"endpoint.base_url": url} for url in urls if url), {})
    url = found.get("endpoint.base_url", raw.get("endpoint.base_url"))
    if provider.name == AZURE and isinstance(url, str):
        version = environment.get("OPENAI_API_VERSION")
        found["endpoint.base_url"] = azure_url(url, version, _model(raw))
    if all(raw.get(name) is None for name in KEY_SOURCES):
        key = provider.key_in(environment)
        if key is not None:
            found["endpoint.api_key_env"] = key.name
    if provider.model is not None and not _names_model(raw):
        found["request.model"] = provider.model
    return found, warnings


def _names_model(raw: Mapping[str, Any]) -> bool:
    """Whether raw values name the run's model, as text or as a template."""
    params = raw.get("request.params")
    return raw.get("request.model") is not None or (isinstance(params, dict) and "model" in params)


def _model(raw: Mapping[str, Any]) -> str | None:
    """The run's model in raw values, where it is one for all rows."""
    params = raw.get("request.params")
    named = raw.get("request.model") or (params.get("model") if isinstance(params, dict) else None)
    return named if isinstance(named, str) and not is_template(named) else None
