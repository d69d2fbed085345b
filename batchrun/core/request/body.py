"""A row's fields become a request body: split, checked, filled with defaults, serialised, hashed.

Checked is only what is certain to fail and would waste every retry; unknown keys, roles and
content parts ride through untouched.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec

from batchrun.core.request import tokens
from batchrun.core.request.worst_case import worst_case
from batchrun.core.settings import parameters
from batchrun.core.settings.endpoint import Endpoint, not_served
from batchrun.core.verdict import answer_checks
from batchrun.errors import BodyTooLargeError, NoModelError, RowError
from batchrun.records import Expected, JsonObject, Request, Row

if TYPE_CHECKING:
    from batchrun.core.settings.resolve import Settings

_encode = msgspec.json.Encoder().encode
_CHAT_URLS = ("/v1/chat/completions", "/chat/completions")
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_NOT_GIVEN = object()
_HIDDEN = ("custom_id", "extra_body")
_new = tuple.__new__  # half the time of a named tuple's own ways
_USAGE_ASKED: JsonObject = {"include_usage": True}
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

BODY_BYTES_MAX = 64 * 2**20
"""A larger body is not sent: its row is a bad row."""

WORDING = 2
"""How a body is made of a row and the defaults, as run directories record it: a directory goes on
as it was begun. The first version (nothing recorded) sent a parameter under two names where the
row used one and the run the other, and whole numbers in floats as they came."""

DEPTH_MAX = 500
TOO_DEEP = f"is nested more than {DEPTH_MAX} levels deep"


def nested_too_deeply(text: bytes) -> bool:
    """Whether JSON text goes deeper than every reader of it can follow."""
    if len(text) <= 2 * DEPTH_MAX or text.count(b"[") + text.count(b"{") <= DEPTH_MAX:
        return False
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", text)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH_MAX:
            return True
    return False


class Split(NamedTuple):
    """A row's fields told apart: what is sent, what names the row, what is carried.

    ``added_bytes`` is what the body holds beyond the row's own data, such as a file read for it.
    """

    custom_id: str | None
    body: JsonObject | None
    carried: JsonObject
    problem: str | None = None
    added_bytes: int = 0


def split(
    fields: JsonObject,
    sent: Collection[str] = parameters.SENT,
    hidden: Collection[str] = _HIDDEN,
    envelope: Collection[str] = parameters.ENVELOPE,
) -> Split:
    """Tell body from data in one row's top-level fields.

    An OpenAI Batch line has its body under ``body``; in a chat body the parameters in ``sent`` and
    what stands under ``extra_body`` are the body. ``hidden`` are fields of a chat body that are
    neither sent by their name nor carried, ``envelope`` those of a Batch line that are not carried.
    ``extra_body`` is data where it is not ``hidden``. Never raises: a row of neither kind, or a
    broken one, comes back with ``problem``.
    """
    custom_id = fields.get("custom_id")
    if custom_id is not None:
        custom_id = id_text(custom_id)
    if "body" in fields and "messages" not in fields:
        carried = {k: v for k, v in fields.items() if k not in envelope}
        body, problem = _batch_body(fields)
        return Split(custom_id, body, carried, problem)
    body = {}
    carried = {}
    for key, value in fields.items():
        if key in sent:
            body[key] = value
        elif key not in hidden:
            carried[key] = value
    extra = fields.get("extra_body")
    if extra is not None and "extra_body" in hidden:
        if not isinstance(extra, dict):
            return Split(custom_id, None, carried, "extra_body is not a JSON object")
        body.update(extra)
    if "messages" not in body:
        return Split(
            custom_id,
            None,
            carried,
            "the row has neither `messages` nor an OpenAI Batch line's `body`; --prompt makes "
            "messages of data rows",
        )
    return _new(Split, (custom_id, body, carried, None, 0))


def has_messages(fields: JsonObject, data: frozenset[str]) -> bool:
    """Whether a row brings its own messages, well made or not, by the first two reading rules.
    ``data`` are columns that are no part of a request whatever they are called.
    """
    if fields.get("messages") is not None:
        return True
    if fields.get("body") is not None and "body" not in data:
        return True
    extra = fields.get("extra_body")
    return isinstance(extra, dict) and "messages" in extra


def split_data(fields: JsonObject, data: frozenset[str]) -> Split:
    """Tell parameters from data in a row without messages, by the first two reading rules.

    As ``split``; but a parameter that is null is not set, and columns in ``data`` are carried even
    if they are called like parameters. The body is one without messages.
    """
    body, carried = {}, {}
    for key, value in fields.items():
        if key in data:
            carried[key] = value
        elif key in parameters.SENT:
            if value is not None:
                body[key] = value
        elif key not in ("custom_id", "extra_body"):
            carried[key] = value
    extra = fields.get("extra_body")
    if extra is None:
        return Split(id_text(fields.get("custom_id")), body, carried)
    if not isinstance(extra, dict):
        return Split(
            id_text(fields.get("custom_id")), None, carried, "extra_body is not a JSON object"
        )
    return Split(id_text(fields.get("custom_id")), body | extra, carried)


def id_text(name: object) -> str | None:
    """A row's id as text; null is none."""
    return name if name is None or isinstance(name, str) else _encode(name).decode()


def kind_of(fields: JsonObject) -> str:
    """Which kind of row these fields are: ``batch line``, ``chat body`` or ``data row``."""
    if _is_batch_line(fields):
        return "batch line"
    return "chat body" if "messages" in fields else "data row"


def _is_batch_line(fields: JsonObject) -> bool:
    return "body" in fields and "messages" not in fields


def _batch_body(fields: JsonObject) -> tuple[JsonObject | None, str | None]:
    body = fields["body"]
    if not isinstance(body, dict):
        return None, "`body` is not a JSON object"
    method = fields.get("method")
    if method is not None and (not isinstance(method, str) or method.upper() != "POST"):
        return None, f"`method` is {method!r}; only POST can be run"
    url = fields.get("url")
    if url is not None and (not isinstance(url, str) or not url.rstrip("/").endswith(_CHAT_URLS)):
        return None, f"`url` is {url!r}; only /v1/chat/completions can be run"
    extra = body.get("extra_body")
    if extra is None:
        return body, None
    if not isinstance(extra, dict):
        return None, "extra_body is not a JSON object"
    merged = {k: v for k, v in body.items() if k != "extra_body"}
    return merged | extra, None


def builder(
    settings: Settings, *, body_bytes_max: int = BODY_BYTES_MAX
) -> Callable[[Row], Request]:
    """``build`` as a run with these settings has it: the one way to its requests, for whoever looks
    at them before or after as well.
    """
    endpoints = settings.endpoints
    anything = any(endpoint.models is None for endpoint in endpoints)
    made = partial(
        build,
        defaults=settings.defaults(),
        body_bytes_max=body_bytes_max,
        stream=settings.stream,
        asked=answer_checks.asked_by(settings),
        endpoints=() if anything else endpoints,
        bounded=settings.has_budget,
        raised_to=settings.truncation_limit,
    )
    if settings.turns is None:
        return made
    from batchrun.core.request import conversation  # for runs of conversations alone

    return partial(conversation.whole, of_turn=made, body_bytes_max=body_bytes_max)


def as_begun(build: Callable[[Row], Request], wording: object) -> Callable[[Row], Request]:
    """What ``builder`` gives, for a run directory that records this ``WORDING``."""
    return partial(build, earlier=True) if wording is None else build  # type: ignore[call-arg]


def anew(build: Callable[[Row], Request]) -> Callable[[Row], Request]:
    """What ``builder`` gives for a run that begins now, of what ``as_begun`` made of it."""
    return partial(build, earlier=False)  # type: ignore[call-arg]


def with_model(body: bytes, model: str) -> bytes:
    """A request's body with another model; everything else keeps its bytes."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields["model"] = msgspec.Raw(_encode(model))
    return _encode(fields)


def as_sent(request: Request, endpoints: Sequence[Endpoint]) -> bytes:
    """The request's body as the first of these endpoints that serves its model gets it: with the
    name that the model has there.
    """
    for endpoint in endpoints:
        if endpoint.serves(request.model):
            name = (endpoint.models or {}).get(request.model, request.model)
            return request.body if name == request.model else with_model(request.body, name)
    return request.body


def with_raised_limit(request: Request, most: int) -> Request:
    """The request with twice its limit of tokens, at most ``most``; the same where it has none or
    cannot be raised. Everything else keeps its bytes, and the hash stays that of the original.
    """
    fields = msgspec.json.decode(request.body, type=dict[str, msgspec.Raw])
    names = (*tokens.LIMITS, "n")
    given = {name: msgspec.json.decode(fields[name]) for name in names if name in fields}
    raised = tokens.raised(given, most)
    if not raised:
        return request
    fields |= {name: msgspec.Raw(_encode(limit)) for name, limit in raised.items()}
    more = (tokens.stated_limit(given | raised) or 0) - (tokens.stated_limit(given) or 0)
    return request._replace(
        body=_encode(fields), tokens=request.tokens + more * tokens.choices(given)
    )


def asking(request: Request, model: str) -> Request:
    """The request to another model; the hash stays that of the original."""
    return request._replace(body=with_model(request.body, model), model=model)


def build(
    row: Row,
    defaults: Mapping[str, Any],
    *,
    body_bytes_max: int,
    stream: bool = False,
    asked: Callable[[JsonObject], Expected | None] | None = None,
    endpoints: Sequence[Endpoint] = (),
    bounded: bool = False,
    raised_to: int | None = None,
    earlier: bool = False,
) -> Request:
    """The request for a row: defaults under the row's own values (``parameters.laid_over``),
    checked and serialised.

    With ``stream`` it asks for a stream, and for usage at its end: ``stream_options`` of the row
    or the defaults is laid over that, and null leaves it out (some servers refuse it). ``asked``
    reads what the answer to a body must be; it may raise ``RowError``. ``endpoints`` are those of
    which one must serve the model; none: any model is served. ``bounded`` says that what the
    request costs at most must be known, with ``raised_to`` as the limit of a later try. ``earlier``
    makes the body as the first version did; see ``WORDING``.

    Raises ``RowError`` with a sentence for a row that cannot be sent.
    """
    if row.problem is not None or row.body is None:
        raise RowError(row.problem or "the row has no body")
    body = {**defaults, **row.body} if earlier else parameters.laid_over(defaults, row.body)
    # How replies travel is the run's business, not the row's.
    body.pop("stream", None)
    options = body.pop("stream_options", _NOT_GIVEN)
    try:
        _check(body)
        if stream:
            body["stream"] = True
            if options is not None:
                body["stream_options"] = _stream_options(options)
        if endpoints and not any(endpoint.serves(body["model"]) for endpoint in endpoints):
            _not_served(body["model"], endpoints)
        # Only the top level is sorted: below it, order can matter to the model that reads it.
        wire = _encode(dict(sorted(body.items())))
    except UnicodeEncodeError:
        message = "the body holds half of a surrogate pair, which is not valid text"
        raise RowError(message) from None
    except (OverflowError, TypeError, RecursionError) as error:
        message = f"the body cannot be written as JSON: {error}"
        raise RowError(message) from None
    if len(wire) > body_bytes_max:
        raise BodyTooLargeError(len(wire), body_bytes_max)
    limit = tokens.stated_limit(body)
    request = (
        row.number,
        row.custom_id,
        wire,
        hashlib.sha256(wire).hexdigest(),
        body["model"],
        tokens.estimate(body, len(wire), limit),
        limit is not None,
        None if asked is None else asked(body),
        worst_case(body, wire, raised_to=raised_to) if bounded else None,
    )
    return _new(Request, request)


def _not_served(model: str, endpoints: Sequence[Endpoint]) -> NoReturn:
    message = f"`model` is {model!r}, and {not_served(endpoints)}"
    raise RowError(message)


def _stream_options(given: object) -> JsonObject:
    if given is _NOT_GIVEN:
        return _USAGE_ASKED
    if not isinstance(given, dict):
        message = "`stream_options` is not an object"
        raise RowError(message)
    _check_numbers(given, "stream_options")
    return _USAGE_ASKED | given


def _check(body: Mapping[str, Any]) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        message = "`messages` must be a list with at least one message"
        raise RowError(message)
    for place, item in enumerate(messages):
        if not isinstance(item, dict):
            message = f"messages[{place}] is not an object"
            raise RowError(message)
        role = item.get("role")
        if not isinstance(role, str) or not role:
            message = f"messages[{place}] has no `role`"
            raise RowError(message)
        if item.get("content") is None and role in ("user", "system", "developer"):
            message = f"messages[{place}] has role {role!r} and no `content`"
            raise RowError(message)
        if role == "tool" and not item.get("tool_call_id"):
            message = f"messages[{place}] has role 'tool' and no `tool_call_id`"
            raise RowError(message)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        message = "no model: give the row a `model`, or set one for the run with --model"
        raise NoModelError(message)
    for key, value in body.items():
        if key != "messages" and not isinstance(value, str):
            _check_numbers(value, key)


def _check_numbers(value: object, where: str) -> None:
    """NaN and infinity are not JSON, and integers beyond 64 bits do not survive most servers."""
    if isinstance(value, float):
        if not math.isfinite(value):
            message = f"`{where}` is {value}, which JSON cannot hold"
            raise RowError(message)
    elif isinstance(value, int):
        if not INT64_MIN <= value <= INT64_MAX:
            message = f"`{where}` holds an integer beyond 64 bits"
            raise RowError(message)
    elif isinstance(value, dict):
        for item in value.values():
            _check_numbers(item, where)
    elif isinstance(value, list):
        for item in value:
            _check_numbers(item, where)
