"""What to change after a stop that a wrong setting caused.

``stop_message`` says what happened. Here stands what to do about it: a sentence, and where it is
known the flag that was meant, so that the command to type next is already corrected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import NamedTuple
from urllib.parse import urlsplit

from batchrun.core.settings import urls
from batchrun.core.settings.providers import BY_NAME
from batchrun.core.text.pasted_keys import key_doubt, key_flaw
from batchrun.core.text.redact import public_url


class Fix(NamedTuple):
    """What to change. ``flags`` are to be set, None being a flag without a value; ``dropped`` are
    to be left out, or given as the parameter of that name instead.
    """

    text: str
    flags: Mapping[str, str | None] = {}
    dropped: Mapping[str, str | None] = {}


NO_FIX = Fix("")
"""Nothing is known that would have to be changed."""
SETTINGS_TO_BLAME = frozenset({"auth", "forbidden", "not_found", "config"})
"""Classes that stop a run at once and come again until a setting is changed."""
OF_THE_SETTINGS = frozenset(
    {*SETTINGS_TO_BLAME, "connection", "invalid_request", "invalid_response"}
)
"""Those, and classes that are the settings' fault where nothing has succeeded yet."""
_LISTED_MAX = 5
_NAMED = re.compile(
    r"model[^`'\"\u2018\u201c]{0,20}[`'\"\u2018\u201c]([^\s`'\"\u2019\u201d]+)", re.IGNORECASE
)
_TLS_WANTED = re.compile(r"plain HTTP request was sent to|requires? TLS|HTTPS port", re.IGNORECASE)
_REDIRECTED = re.compile(r"redirected to (\S+), which is not followed")
GUARDS: Mapping[str, str] = {
    "max_cost": "raise --max-cost, which counts over all sessions of the run",
    "max_total_tokens": "raise --max-total-tokens, which counts over all sessions of the run",
    "min_free_disk": "make room on the disk, or lower --min-free-disk",
    "max_failures": (
        "correct what made rows fail, or raise --max-failures, which counts from every start anew"
    ),
    "max_truncated": (
        "allow longer answers (--max-tokens N --keep-done --retry-class truncated), or raise "
        "--max-truncated, which counts from every start anew"
    ),
    "max_empty": (
        "find out with `batchrun show` why answers are empty, or raise --max-empty, which counts "
        "from every start anew"
    ),
}
"""Guards that may stop the same command again, and what to change."""
ROOM = 1.25
"""Without an interval, pending rows are assumed to cost up to this many times the projection."""


def enough(charged: float, needs: float, projected: float | None, pending: int | None) -> str:
    """A cap of a budget that is enough for the ``pending`` rows, rounded up to two digits, as it is
    typed. ``charged`` is what is used of it, ``needs`` what the next row may use at most, and
    ``projected`` what the pending rows will probably use in all.
    """
    ahead = needs * max(1, pending or 1) if projected is None else projected + needs
    wanted = Decimal(repr(float(charged + ahead)))
    step = Decimal(1).scaleb(wanted.adjusted() - 1)
    if wanted == wanted.to_integral_value():
        step = max(step, Decimal(1))  # tokens
    return f"{(wanted / step).to_integral_value(ROUND_CEILING) * step:f}"


_WORDS: tuple[tuple[re.Pattern[str], Fix], ...] = (
    (
        re.compile(r"max_tokens.*use .{0,4}max_completion_tokens", re.IGNORECASE | re.DOTALL),
        Fix(
            "give the limit as --param max_completion_tokens=N instead of --max-tokens N",
            {"--keep-done": None},
            {"--max-tokens": "max_completion_tokens"},
        ),
    ),
    (
        re.compile(r"temperature.{0,40}(?:not support|only the default)", re.IGNORECASE),
        Fix("leave --temperature out", {"--keep-done": None}, {"--temperature": None}),
    ),
)
"""What servers say of parameters that the settings set, and what to do."""


def of_key(source: str, key: str | None, variable: str | None) -> Fix:
    """The fix for a refused key. ``source`` says where it was read, ``variable`` is the environment
    variable that should hold one if ``key`` is None.
    """
    if key is None:
        named = f" {variable} is not set;" if variable else ""
        return Fix(f"no key was sent:{named} set it, or name another source with --api-key-env")
    doubt = key_flaw(key) or key_doubt(key)
    if doubt is not None:
        return Fix(f"the key in {source} {doubt}")
    return Fix(f"check the key in {source}: is it complete, still valid, and of this server?")


def of_path(url: str) -> Fix:
    """The fix where nothing is served under a chat-completions URL."""
    likely = urls.likely_base(url)
    if likely is None:
        return Fix("check the host and the path in --base-url")
    return Fix(f"try --base-url {likely}", {"--base-url": likely})


def model_named(message: str) -> str | None:
    """The model that an error message names."""
    found = _NAMED.search(message)
    return None if found is None else found[1].rstrip(".,;:")


def of_model(model: str | None, near: Sequence[str], listed: Sequence[str]) -> Fix:
    """The fix for a model that the server does not know. ``near`` are names like it that the server
    lists, ``listed`` all that it lists.
    """
    if near:
        others = f", or {' or '.join(near[1:3])}" if near[1:] else ""
        # The model shapes requests: done rows, if there are any, are to be kept by name.
        flags = {"--model": near[0], "--keep-done": None}
        return Fix(f"did you mean --model {near[0]}{others}?", flags)
    if model is not None and model in listed:
        return Fix(f"the server lists {model}: does the key have access to it?")
    if listed:
        more = ", ..." if len(listed) > _LISTED_MAX else ""
        return Fix(f"the server lists these models: {', '.join(listed[:_LISTED_MAX])}{more}")
    return Fix("check the name of the model")


def of_connection(provider: str | None) -> Fix:
    """The fix where no connection is made: the command that starts a local server, if one is
    known.
    """
    known = BY_NAME.get(provider or "")
    if known is None or known.starts_with is None:
        return Fix("check that the server runs at the host and port of --base-url")
    return Fix(f"start the server (`{known.starts_with}`), or name another with --base-url")


def of_redirect(base_url: str, message: str) -> Fix | None:
    """The fix for a redirect. Only on the same host the new address is put into the command: the
    key would go there.
    """
    found = _REDIRECTED.search(message)
    if found is None:
        return None
    there = found[1].removesuffix("/chat/completions")
    try:
        same = urlsplit(there).hostname == urlsplit(base_url).hostname
    except ValueError:
        return None
    return Fix(f"try --base-url {there}", {"--base-url": there}) if same else None


def of_certificate(message: str) -> Fix | None:
    """The fix for a certificate that is not accepted, or one that is missing."""
    if "--ca-file" in message:
        return Fix("name the authority of the certificate with --ca-file FILE, if you trust it")
    if "--client-cert" in message:
        return Fix("give the client certificate with --client-cert FILE")
    return None


def of_tls(base_url: str, *, speaks_tls: bool) -> Fix:
    """The fix for a scheme that the server does not speak."""
    scheme = "https" if speaks_tls else "http"
    meant = public_url(re.sub(r"^https?", scheme, base_url, flags=re.IGNORECASE))
    return Fix(f"use {scheme}: --base-url {meant}", {"--base-url": meant})


def of_words(message: str) -> Fix | None:
    """The fix that a server's own words call for."""
    return next((fix for pattern, fix in _WORDS if pattern.search(message)), None)


def wants_tls(message: str) -> bool:
    """Whether a reply says that the request should have come by TLS."""
    return _TLS_WANTED.search(message) is not None
