"""What an answer must be besides a completion: whole, not empty, and what its request asked for.

A verdict says that an exchange brought a completion. Here the completion is held against what
its request asked for (``Expected``) and what the run asks of every answer (``Policy``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from batchrun.core.reply import fences, thinking
from batchrun.core.reply.answer import blank, cut_off, each_choice, is_empty, is_truncated
from batchrun.core.schema import json_schema, response_format
from batchrun.core.settings import reasoning_models
from batchrun.core.settings.resolve import Settings
from batchrun.core.verdict.judge import Verdict
from batchrun.core.verdict.rules import Action
from batchrun.errors import NotASchemaError, RowError
from batchrun.records import Choice, Completion, Expected, ToolCall

KEEP, FAIL, RETRY = "keep", "fail", "retry"

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of answers that were cut off, and of empty ones; whether reasoning in tags is
    moved out of the content; whether JSON may stand in a Markdown fence; up to what the limit of
    an answer that was cut off is raised.
    """

    on_truncation: str = KEEP
    on_empty: str = KEEP
    think: str = reasoning_models.KEEP
    accept_fenced: bool = False
    truncation_limit: int | None = None


class Flaw(NamedTuple):
    """Why an answer does not do: error class, a bounded message, whether to ask again."""

    error_class: str
    message: str
    again: bool


class Asked:
    """Reads what a body asks for, as far as it is to be checked.

    ``default`` is the ``response_format`` of rows that set none; it is read once.
    """

    def __init__(
        self, default: object = None, *, schemas: bool = True, tools: bool = False
    ) -> None:
        self._default = default
        self._schemas = schemas
        self._tools = tools
        self._by_default: tuple[bool, bytes | None] = (False, None)
        if schemas and default is not None:
            self._by_default = _format(default)

    def __call__(self, body: Mapping[str, Any]) -> Expected | None:
        """What an answer to this body must be; None where nothing is to be checked.

        Raises ``RowError`` where a schema in it is none.
        """
        given = body.get("response_format")
        if not self._tools and (given is None or not self._schemas):
            return None
        json, schema = False, None
        if given is not None and self._schemas:
            json, schema = self._by_default if given is self._default else _format(given)
        tools = _tools(body) if self._tools else None
        return Expected(json, schema, tools) if json or tools is not None else None


def asked_by(settings: Settings) -> Asked | None:
    """What reads the bodies of a run; None where nothing is ever checked."""
    if not settings.check_schema and not settings.check_tools:
        return None
    default = settings.defaults().get("response_format")
    return Asked(default, schemas=settings.check_schema, tools=settings.check_tools)


def policy_of(settings: Settings) -> Policy | None:
    """The policy of a run; None where every answer is kept."""
    policy = Policy(
        settings.on_truncation,
        settings.on_empty,
        settings.think,
        settings.accept_fenced,
        settings.truncation_limit,
    )
    return None if policy == Policy() else policy


def _format(given: object) -> tuple[bool, bytes | None]:
    schema = response_format.schema_of(given)
    if schema is None:
        return response_format.asks_for_json(given), None
    return True, _schema(schema, "schema of response_format is not a JSON Schema")


def _schema(schema: object, wrong: str) -> bytes:
    """The text of a schema. Raises ``RowError`` that begins with ``wrong`` where it is none."""
    try:
        text = json_schema.encoded(schema)
        json_schema.require(text)
    except NotASchemaError as error:
        message = f"{wrong}: {error}"
        raise RowError(message) from None
    return text


def _tools(body: Mapping[str, Any]) -> dict[str, bytes | None]:
    """The schemas of the tools that a body offers, those of the older protocol too."""
    found: dict[str, bytes | None] = {}
    offered, older = body.get("tools"), body.get("functions")
    functions = [
        tool.get("function", tool.get("custom"))
        for tool in (offered if isinstance(offered, list) else ())
        if isinstance(tool, dict)
    ]
    for function in [*functions, *(older if isinstance(older, list) else ())]:
        if isinstance(function, dict) and isinstance(name := function.get("name"), str):
            parameters = function.get("parameters")
            wrong = f"parameters of tool {json_schema.shortened(name, 80)!r} are not a JSON Schema"
            found[name] = None if parameters is None else _schema(parameters, wrong)
    return found


def held_against(verdict: Verdict, expected: Expected | None, policy: Policy | None) -> Verdict:
    """The verdict on a completion, made what the policy wants and held against what was asked for.

    One that does not do keeps its completion and usage: it was paid for. It is asked for again at
    once, since the server is well.
    """
    assert verdict.completion is not None
    policy = policy or Policy()
    completion = made_of(verdict.completion, expected, policy)
    if completion is not verdict.completion:
        verdict = verdict._replace(completion=completion)
    flaw = flaw_of(completion, expected, policy)
    if flaw is None:
        return verdict
    return verdict._replace(
        action=Action.AGAIN if flaw.again else Action.FAIL,
        rule=flaw.error_class,
        error_class=flaw.error_class,
        message=flaw.message,
        backoff_s=0.0,
        trail=flaw.error_class,
    )


def made_of(completion: Completion, expected: Expected | None, policy: Policy) -> Completion:
    """The completion that the policy makes of one that a server sent: without reasoning in its
    content, and without the fences around JSON that was asked for.
    """
    if policy.think == reasoning_models.SPLIT:
        completion = thinking.split(completion)
    if not policy.accept_fenced or expected is None or not expected.json:
        return completion
    return each_choice(completion, _unfenced)


def _unfenced(choice: Choice) -> Choice:
    """The choice with the JSON in a fence as its content, unless its content is JSON itself."""
    content = choice.content
    if content is None or choice.tool_calls or choice.refusal or _is_json(content):
        return choice
    inside = fences.fenced(content, _is_json)
    return choice if inside is None else choice._replace(content=inside)


def _is_json(text: str) -> bool:
    return _read(text)[1] is None


def flaw_of(completion: Completion, expected: Expected | None, policy: Policy) -> Flaw | None:
    """Why a completion does not do, or None where it does.

    Every choice is looked at. The policies come first: what was cut off, or is empty, is only held
    against the schema where it is kept.
    """
    if policy.on_truncation != KEEP and is_truncated(completion):
        said = "the answer was cut off by a token limit"
        return Flaw(
            error_class="truncated_output", message=said, again=policy.on_truncation == RETRY
        )
    if policy.on_empty != KEEP and is_empty(completion):
        said = "the answer has no content, no tool call and no refusal"
        if any(not blank(choice.reasoning) for choice in completion.choices or (completion.first,)):
            said += ", only reasoning"
        return Flaw(error_class="empty_output", message=said, again=policy.on_empty == RETRY)
    if expected is None:
        return None
    several = completion.choices is not None and len(completion.choices) > 1
    for choice in completion.choices or (completion.first,):
        wrong = _misfit(choice, expected)
        if wrong is not None:
            said = wrong
            if cut_off(choice.finish_reason):
                said += " (the answer was cut off by a token limit)"
            elif choice.finish_reason not in (None, "stop", "tool_calls", "function_call"):
                reason = json_schema.shortened(choice.finish_reason or "", 40)
                said += f" (finish_reason {reason})"
            where = f"choice {choice.index}: " if several else ""
            return Flaw(error_class="invalid_output", message=where + said, again=True)
    return None


def _misfit(choice: Choice, expected: Expected) -> str | None:
    """Why a choice is not what was asked for. A refusal is an answer of its own; what a model
    says beside a tool call is not the answer yet.
    """
    if choice.tool_calls and expected.tools is not None:
        return _wrong_call(choice.tool_calls, expected.tools)
    if not expected.json or choice.tool_calls or choice.refusal:
        return None
    if blank(choice.content):
        return "the content is empty where JSON was asked for"
    value, wrong = _read(choice.content or "")
    if wrong is not None:
        fenced = fences.fenced(choice.content or "", _is_json) is not None
        wrong += "; it is in a Markdown fence, which --accept-fenced accepts" if fenced else ""
        return f"the content is not JSON: {wrong}"
    if expected.schema is not None:
        wrong = json_schema.problem(expected.schema, value)
        if wrong is not None:
            return f"the content does not fit its schema: {wrong}"
    return None


def _wrong_call(calls: tuple[ToolCall, ...], tools: Mapping[str, bytes | None]) -> str | None:
    """What is wrong with the first wrong one of some tool calls."""
    for place, call in enumerate(calls):
        name = json_schema.shortened(call.name or "", 80)
        where = f"tool call {place} ({name!r})"
        if call.name is None or call.name not in tools:
            known = json_schema.shortened(", ".join(tools) or "none", 120)
            return f"{where}: the request offers no such tool; it offers {known}"
        if call.type == "custom":
            continue  # its input is free text
        # Servers write no arguments as an empty text.
        value, wrong = _read(call.arguments or "{}")
        if wrong is None and not isinstance(value, dict):
            wrong = "they are not an object"
        if wrong is not None:
            return f"{where}: the arguments are not JSON: {wrong}"
        schema = tools[call.name]
        wrong = None if schema is None else json_schema.problem(schema, value)
        if wrong is not None:
            return f"{where}: the arguments do not fit: {wrong}"
    return None


def _read(text: str) -> tuple[Any, str | None]:
    """A JSON value, or why it is none. Strictly: NaN and what comes after the value are errors."""
    try:
        return _decode(text), None
    except RecursionError:
        return None, "it is nested too deeply"
    except (msgspec.MsgspecError, ValueError) as error:
        said = str(error).removeprefix("JSON is malformed: ")
        return None, json_schema.shortened(said, 120)
