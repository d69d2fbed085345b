"""What a look at an endpoint found, and what to do about it, a sentence each.

What a reply means is decided where a run decides it (``core.verdict.judge``), and said in the same
words (``core.verdict.stop_message``). Here stands what only a look has: a list of models, and
hints.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from batchrun.core.reply import completion as reading
from batchrun.core.settings.providers import Provider
from batchrun.core.text.wording import counted
from batchrun.core.verdict.judge import Action, Circumstances, Verdict, judge
from batchrun.core.verdict.stop_message import stop_message
from batchrun.errors import FaultKind, TransportFault
from batchrun.records import Reply

Status = Literal["ok", "warning", "failed", "skipped"]

MODELS_SHOWN = 5
_SUFFIX = "/chat/completions"
_DEPLOYMENT = re.compile(r"/deployments/[^/]+$")
_UNREACHED = (FaultKind.DNS, FaultKind.CONNECT, FaultKind.TLS, FaultKind.PROXY)
_MODEL_PREFIX = "models/"
"""Gemini lists models under this name and takes them without it too."""


class Check(NamedTuple):
    """One thing that was looked at. ``todo`` is what to do where it is not in order."""

    name: str
    status: Status
    message: str
    todo: str | None = None


def models_url(url: str) -> str:
    """Where the server of a chat-completions URL lists its models."""
    parts = urlsplit(url)
    path = _DEPLOYMENT.sub("", parts.path.removesuffix(_SUFFIX)) + "/models"
    return urlunsplit(parts._replace(path=path))


def server_of(url: str) -> str:
    """Scheme, host and port of a URL, as they may be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def models_in(body: bytes) -> list[str] | None:
    """The names in a list of models; None where the body is none. Servers nest it under ``data``,
    or send the bare list (Together).
    """
    value = reading.parse(body)
    if isinstance(value, dict):
        value = value.get("data")
    if not isinstance(value, list):
        return None
    names = [entry.get("id") for entry in value if isinstance(entry, dict)]
    return [name.removeprefix(_MODEL_PREFIX) for name in names if isinstance(name, str)]


def nearest(model: str, listed: Sequence[str]) -> list[str]:
    """The listed names that ``model`` may have meant, the nearest first."""
    low = model.lower()
    by_low = {name.lower(): name for name in listed}
    parts = [name for name in by_low if low in name or name.rpartition("/")[2] in low]
    close = difflib.get_close_matches(low, by_low, n=MODELS_SHOWN, cutoff=0.5)
    return [by_low[name] for name in dict.fromkeys([*close, *parts])][:MODELS_SHOWN]


def look(
    exchange: Reply | TransportFault, *, wait_s_max: float, wall_s: float, url: str = ""
) -> Verdict:
    """The verdict of a run about the first exchange of its first row, sent to ``url``."""
    first = Circumstances({}, succeeded=False, wall_s=wall_s, wait_s_max=wait_s_max)
    return judge(exchange, first._replace(runs_model=True, url=url))


def sentence(verdict: Verdict, exchange: Reply | TransportFault, wait_s_max: float) -> str:
    """What a run would say of it."""
    status = exchange.status if isinstance(exchange, Reply) else exchange.http_status
    return stop_message(verdict, status, wait_s_max)


def unreached(fault: TransportFault) -> bool:
    """Whether a fault says that the server was not reached at all."""
    return fault.kind in _UNREACHED


def on_url(
    where: str, provider: Provider | None, fault: TransportFault | None, told: str, seconds: float
) -> Check:
    """Whether the server can be reached. ``told`` is what a run says of the fault."""
    if fault is None:
        return Check("url", "ok", f"{where} answers, in {seconds:.2f} s")
    todo = None
    if (
        provider is not None
        and provider.starts_with is not None
        and fault.kind == FaultKind.CONNECT
    ):
        todo = f"start the server (`{provider.starts_with}`), or name another with --base-url"
    elif fault.kind == FaultKind.CONNECT:
        todo = "check that the server runs there, and that no firewall or proxy is between"
    elif fault.kind == FaultKind.DNS:
        todo = "check the spelling of the host, and that this machine has a network"
    return Check("url", "failed", told, todo)


def on_models(
    exchange: Reply, told: str, model: str | None, provider: Provider | None
) -> tuple[Check, list[str]]:
    """What the list of models says about ``model``, and the list. ``told`` is what a run says of
    the reply, should it be an error.
    """
    if provider is not None and not provider.lists_models:
        message = f"{provider.title} lists what could be deployed, not what is: not looked at"
        return Check("models", "skipped", message), []
    if exchange.status == 401:
        return Check("models", "failed", told), []
    if exchange.status in (404, 405, 501):
        return Check("models", "skipped", f"the server has no list (HTTP {exchange.status})"), []
    if not 200 <= exchange.status < 300:
        return Check("models", "warning", told, "the request below decides"), []
    listed = models_in(exchange.body)
    if listed is None:
        todo = "check the base URL: it often ends in /v1"
        return Check("models", "warning", "the list of models cannot be read", todo), []
    count = f"{len(listed):,} model{'' if len(listed) == 1 else 's'} listed"
    if model is None:
        some = ", ".join(listed[:MODELS_SHOWN]) + (", ..." if len(listed) > MODELS_SHOWN else "")
        return Check("models", "ok", f"{count}: {some}" if listed else count), listed
    if model.removeprefix(_MODEL_PREFIX) in listed:
        return Check("models", "ok", f"{count}, {model} among them"), listed
    near = nearest(model, listed)
    todo = f"did you mean {' or '.join(near)}?" if near else "check the model's name"
    return Check("models", "warning", f"{count}, {model} is not among them", todo), listed


def on_request(verdict: Verdict, told: str, model: str, seconds: float, todo: str | None) -> Check:
    """What came of the one request. ``todo`` is what else is known to help."""
    if verdict.completion is not None:
        usage = verdict.completion.usage
        tokens = "" if usage.total_tokens is None else f", {counted(usage.total_tokens, 'token')}"
        answered = verdict.completion.model or model
        return Check("request", "ok", f"{answered} answers, in {seconds:.2f} s{tokens}", todo)
    if verdict.action in (Action.AGAIN, Action.THROTTLE, Action.FREE):
        again = "a run would try again by itself"
        todo = again if todo is None else f"{todo}; {again}"
    return Check("request", "failed", told, todo)
