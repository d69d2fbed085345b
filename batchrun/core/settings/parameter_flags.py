"""Flags and keywords that are short for a request parameter, and where any other parameter belongs.

``--temperature 0`` is ``--param temperature=0``; a run directory records it as the parameter that
it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from batchrun.core.settings.parameters import SENT, names_of
from batchrun.core.settings.providers import PROVIDERS, provider_named
from batchrun.core.settings.table import BY_NAME, DEFAULT_BASE_URL, SHORT
from batchrun.core.text.template_syntax import is_template
from batchrun.errors import UsageError

_LIMIT = "max_tokens"
_HOSTS = {
    urlsplit(provider.base_url).hostname: provider.limit
    for provider in PROVIDERS
    if provider.base_url is not None
}
_INT64 = 2**63


def with_short_parameters(
    given: Mapping[str, Any], file: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, Any]:
    """What is given by flags or keywords, with the short ones among ``request.params``.

    ``--max-tokens`` gets the name that the endpoint takes, which flags, file or environment name.
    Raises ``UsageError`` for a value that is no number, for a parameter that is given twice, and
    where endpoints differ in that name.
    """
    short = {s.key: given[s.name] for s in SHORT if given.get(s.name) is not None}
    if not short:
        return dict(given)
    rest = {name: value for name, value in given.items() if name not in _NAMES}
    params = rest.get("request.params") or {}
    for key, value in short.items():
        _check(key, value)
        inner = params.get("extra_body")
        named = {*params, *(inner if isinstance(inner, dict) else ())}
        twice = next((name for name in sorted(names_of(key)) if name in named), None)
        if twice is not None:
            message = f"{_flag(key)} and --param {twice} set one parameter; give one of them"
            raise UsageError(message)
    if _LIMIT in short:
        short[_limit(given, file, environment)] = short.pop(_LIMIT)
    return rest | {"request.params": {**params, **short}}


_NAMES = frozenset(setting.name for setting in SHORT)


def number(text: str) -> object:
    """A flag's text as the number that ``--param`` would make of it; else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def keyword_hint(name: str, value: object) -> str | None:
    """What to say of an unknown keyword that is a request parameter."""
    if name not in SENT:
        return None
    return f"it is a request parameter; write params={{{name!r}: {value!r}}}"


def _flag(key: str) -> str:
    return BY_NAME[f"request.{key}"].flag or key


def _check(key: str, value: object) -> None:
    """Only what no server takes is refused: they disagree about ranges."""
    if is_template(value):
        return
    whole = BY_NAME[f"request.{key}"].kind == "int"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        what = "a whole number" if whole else "a number"
    elif not -_INT64 <= value < _INT64:  # which NaN and the infinities are not, either
        what = "a number that JSON and servers can hold"
    elif key == _LIMIT and value < 1:
        what = "a whole number, at least 1"
    else:
        return
    message = f"{_flag(key)} is {value!r}; expected {what}, or a template over the row's columns"
    raise UsageError(message)


def _limit(
    given: Mapping[str, Any], file: Mapping[str, Any], environment: Mapping[str, str]
) -> str:
    """The name under which the run's endpoints take the limit of an answer's tokens."""
    raw = {**file, **given}
    tables = [raw]
    if "endpoints" in file and not {"endpoint.provider", "endpoint.base_url"} & given.keys():
        tables = file["endpoints"]
    names = {_limit_of(table, environment) for table in tables}
    if len(names) == 1:
        return names.pop()
    message = (
        f"--max-tokens: some of the endpoints take {' and some '.join(sorted(names))}; say which "
        f"is sent, as in --param {_LIMIT}=100"
    )
    raise UsageError(message)


def _limit_of(table: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    name, url = table.get("endpoint.provider"), table.get("endpoint.base_url")
    if name is not None:
        return provider_named(name).limit
    if url is None:
        legacy = environment.get("OPENAI_API_BASE")
        url = environment.get("OPENAI_BASE_URL") or legacy or DEFAULT_BASE_URL
    host = urlsplit(url if "://" in str(url) else f"//{url}").hostname
    return _HOSTS.get(host, _LIMIT)
