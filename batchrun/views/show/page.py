"""A row as lines for a terminal. Nothing of it is trusted: every text passes ``layout.wrap``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from batchrun.core.cost.money import format_cost
from batchrun.core.request.conversation import TURNS
from batchrun.core.text.wording import counted
from batchrun.core.verdict import trail
from batchrun.core.verdict.rules import ERROR_CLASSES
from batchrun.views.layout import cut, wrap
from batchrun.views.show.shown_row import PENDING, ShownRow, text_of

INDENT = 2
_URI_SHOWN = 60


def lines(row: ShownRow, *, width: int | None, full: bool = False) -> Iterator[str]:
    """The row, section by section. ``width`` is the terminal's, None for no terminal; ``full``
    shows long texts whole.
    """
    page = _Page(width, full=full)
    yield from page.head(row)
    yield from page.input(row.carried)
    yield from page.request(row)
    yield from page.conversation(row)
    yield from page.answer(row)
    yield from page.attempts(row)
    yield from page.scores(row.scores)


class _Page:
    """One width, one way of cutting."""

    def __init__(self, width: int | None, *, full: bool) -> None:
        self._width = width
        self._full = full

    def _put(self, text: str, indent: int = 0, hang: int = 0) -> Iterator[str]:
        return wrap(text, self._width, indent, hang)

    def _text(self, text: str, indent: int) -> Iterator[str]:
        """A text from the data, cut where it is long."""
        shown, note = cut(text, full=self._full)
        yield from self._put(shown, indent)
        if note is not None:
            yield from self._put(note, indent)

    def _named(self, name: str, text: str, indent: int = INDENT) -> Iterator[str]:
        """A short text beside its name, a long one below it."""
        if "\n" in text or len(text) + len(name) > (self._width or 100) - indent - 2:
            yield from self._put(f"{name}:", indent)
            yield from self._text(text, indent + INDENT)
        else:
            yield from self._put(f"{name}: {text}", indent)

    def head(self, row: ShownRow) -> Iterator[str]:
        """Which row it is, how it ended, and what it took."""
        found = row.result
        name = "" if found.get("custom_id") is None else f"  {_one_line(found['custom_id'])}"
        if "repeat" in found:
            name += f"  repeat {found['repeat']} of row {found['repeat_of']}"
        yield from self._put(f"ROW {row.number}{name}  {row.status}")
        if row.status == PENDING:
            yield from self._put("no outcome so far", INDENT)
            return
        if found.get("error_class"):
            code = f" ({found['error_code']})" if found.get("error_code") else ""
            yield from self._put(f"{found['error_class']}{code}: {_message(found)}", INDENT)
            yield from self._put(_meaning(found["error_class"]), INDENT + INDENT)
        yield from self._put(", ".join(_figures(found)), INDENT)
        if found.get("reused_from"):
            yield from self._put(f"answer reused from {found['reused_from']}", INDENT)

    def input(self, carried: Mapping[str, Any]) -> Iterator[str]:
        """The carried columns."""
        told = {name: value for name, value in carried.items() if value is not None}
        if told:
            yield ""
            yield "INPUT"
        for name, value in told.items():
            yield from self._named(name, value if isinstance(value, str) else _json(value))

    def request(self, row: ShownRow) -> Iterator[str]:
        """Parameters, and the messages by role."""
        found = row.request
        yield ""
        yield "REQUEST"
        if found.note:
            yield from self._put(f"({found.note})", INDENT)
        if found.body is None:
            return
        own = ("messages", "tools", *((TURNS,) if row.has_turns else ()))
        parameters = {n: v for n, v in found.body.items() if n not in own}
        if parameters:
            told = ", ".join(f"{name} {_json(value)}" for name, value in parameters.items())
            yield from self._text(told, INDENT)
        for tool in found.body.get("tools") or ():
            function = tool.get("function") if isinstance(tool, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            yield from self._text(f"tool {name or _json(tool)}", INDENT)
        messages = found.body.get("messages")
        for message in messages if isinstance(messages, list) else ():
            yield from self._message(message)
        turns = found.body.get(TURNS) if row.has_turns and not row.exchange else None
        for number, turn in enumerate(turns if isinstance(turns, list) else (), 1):
            yield from self._message(turn, f"turn {number}")

    def conversation(self, row: ShownRow) -> Iterator[str]:
        """The turns of a conversation and what the model answered to each, as far as it went."""
        turn = 0
        for message in row.exchange:
            asks = isinstance(message, dict) and message.get("role") == "user"
            turn += asks
            yield from ("", f"TURN {turn}") if asks else ()
            yield from self._message(message)

    def _message(self, message: Any, called: str | None = None) -> Iterator[str]:
        if not isinstance(message, dict):
            yield from self._text(_json(message), INDENT)
            return
        role = called or str(message.get("role"))
        name = f" ({message['name']})" if message.get("name") else ""
        yield from self._put(f"{role}{name}:", INDENT)
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                yield from self._text(_part(part), INDENT + INDENT)
        elif content is not None:
            yield from self._text(text_of(content) or _json(content), INDENT + INDENT)
        for call in message.get("tool_calls") or ():
            yield from self._call(call.get("function") or call, call.get("id"))
        if message.get("tool_call_id"):
            yield from self._put(f"answers {message['tool_call_id']}", INDENT + INDENT)

    def _call(self, call: Mapping[str, Any], name: str | None) -> Iterator[str]:
        shown = f" [{name}]" if name else ""
        yield from self._text(
            f"{call.get('name')}({call.get('arguments') or ''}){shown}", INDENT + INDENT
        )

    def answer(self, row: ShownRow) -> Iterator[str]:
        """Reasoning, refusal, text, tool calls, media, and further choices."""
        found = row.result
        for name in ("reasoning",) if row.exchange else ("reasoning", "refusal"):
            if found.get(name):
                yield from ("", name.upper())
                yield from self._text(found[name], INDENT)
        content = found.get("content")
        other = found.get("tool_calls") or found.get("refusal") or found.get("media")
        if row.status == "ok" and (content or not other) and not row.exchange:
            yield from ("", "ANSWER")
            none = "(empty)" if content == "" else "(none)"
            yield from self._text(content or none, INDENT)
        if found.get("tool_calls") and not row.exchange:
            yield from ("", "TOOL CALLS")
            for call in found["tool_calls"]:
                yield from self._call(call, call.get("id"))
        for medium in found.get("media") or ():
            size = "" if medium["bytes"] is None else f", {len(medium['bytes']):,} bytes"
            where = f" in {medium['file']}" if medium["file"] else ""
            yield from self._put(f"[{medium['mime'] or medium['kind']}{size}{where}]", INDENT)
        choices = found.get("choices") or ()
        for choice in choices[1:]:
            yield from ("", f"CHOICE {choice['index']}")
            yield from self._text(choice["content"] or choice["refusal"] or "(empty)", INDENT)
        if row.status == "error" and found.get("response"):
            yield from ("", "REPLY")
            yield from self._text(found["response"], INDENT)

    def attempts(self, row: ShownRow) -> Iterator[str]:
        """Every exchange: when, where, what came of it, and why."""
        if not row.attempts:
            if row.status != PENDING:
                yield from ("", "ATTEMPTS", f"{' ' * INDENT}none")
            return
        yield from ("", "ATTEMPTS")
        before: Mapping[str, Any] | None = None
        for line in row.attempts:
            yield from self._attempt(line, before)
            before = line

    def _attempt(self, line: Mapping[str, Any], before: Mapping[str, Any] | None) -> Iterator[str]:
        started = line["started_at"]
        status = "no status" if line["http_status"] is None else f"HTTP {line['http_status']}"
        code = f" ({line['error_code']})" if line["error_code"] else ""
        ended = f"{line['error_class'] or 'answered'}{code}"
        waits = [f"{_seconds(line['latency_s'])}"]
        if before is not None:
            gap = (started - before["started_at"]).total_seconds() - (before["latency_s"] or 0)
            waits.append(f"{_seconds(max(0.0, gap))} after the one before")
        if line["queue_s"]:
            waits.append(
                f"{_seconds(line['queue_s'])} of it waiting for limits"
                if before is not None
                else f"waited {_seconds(line['queue_s'])} for limits"
            )
        if line["retry_after_s"] is not None:
            waits.append(f"the server asked for {_seconds(line['retry_after_s'])}")
        cost = [] if line["cost_usd"] is None else [format_cost(line["cost_usd"])]
        tokens = _tokens(line)
        turn = "" if line.get("turn") is None else f"turn {line['turn']}  "
        head = (
            f"{line['attempt']}  {turn}{_moment(started)}  {line['endpoint']}  {status}  {ended}  "
            + ", ".join([*waits, *tokens, *cost])
        )
        yield from self._put(head, INDENT, hang=3)
        if line.get("unanswered"):
            yield from self._put("no whole reply came back: it may have been billed", INDENT * 3)
        for words in decided(line.get("decided_by"), line["error_class"]):
            yield from self._put(words, INDENT * 3)

    def scores(self, scores: Mapping[str, Any]) -> Iterator[str]:
        """The scores by name."""
        if scores:
            yield from ("", "SCORES")
        for name, value in scores.items():
            shown = "not scored" if value is None else _json(value)
            yield from self._named(name, value if isinstance(value, str) else shown)


def decided(words: str | None, error_class: str | None) -> Iterator[str]:
    """What ``decided_by`` says, in sentences. An answer that was simply taken needs none."""
    if words is None or words == trail.COMPLETION:
        return
    first, *later = words.split(trail.BETWEEN)
    if first in trail.FIRST and first != trail.COMPLETION:
        yield _prose(trail.FIRST[first])
    elif first != error_class:
        yield f"{first}: {_meaning(first)}"
    elif not later and first in ERROR_CLASSES:
        yield _meaning(first)
    for word in later:
        yield _prose(trail.LATER.get(word, word))


def _meaning(error_class: str) -> str:
    return _prose(ERROR_CLASSES.get(error_class, ""))


def _prose(markdown: str) -> str:
    return markdown.replace("`", "").replace("*", "")


def _message(found: Mapping[str, Any]) -> str:
    text, note = cut(str(found.get("error_message") or ""), full=False)
    return text if note is None else f"{text} {note}"


def _figures(found: Mapping[str, Any]) -> Iterator[str]:
    """Short facts of a result."""
    if found.get("model"):
        yield str(found["model"])
    if found.get("endpoint"):
        yield f"endpoint {found['endpoint']}"
    if found.get("finish_reason"):
        yield f"finish {found['finish_reason']}"
    if found.get("http_status") is not None and found["status"] != "ok":
        yield f"HTTP {found['http_status']}"
    yield from _tokens(found)
    yield "cost unknown" if found.get("cost_usd") is None else format_cost(found["cost_usd"])
    if found.get("latency_s") is not None:
        yield _seconds(found["latency_s"])
    yield counted(found["attempts"], "attempt")


def _tokens(line: Mapping[str, Any]) -> list[str]:
    """Tokens in and out, with their parts."""
    told = []
    for name, what, parts in (
        ("prompt_tokens", "tokens in", (("cached_tokens", "cached"),)),
        ("completion_tokens", "out", (("reasoning_tokens", "reasoning"),)),
    ):
        if line.get(name) is not None:
            inside = [f"{line[key]:,} {word}" for key, word in parts if line.get(key)]
            told.append(f"{line[name]:,} {what}" + (f" ({', '.join(inside)})" if inside else ""))
    return told


def _part(part: Any) -> str:
    """One part of a message: text, or what else it is and how large."""
    if not isinstance(part, dict):
        return _json(part)
    if isinstance(part.get("text"), str):
        return str(part["text"])
    kind = str(part.get("type"))
    inner = part.get(kind)
    address = inner.get("url") if isinstance(inner, dict) else inner
    if isinstance(address, str):
        if address.startswith("data:"):
            mime = address[5:].partition(";")[0].partition(",")[0]
            return f"[{mime or kind}, {len(address):,} characters]"
        return f"[{kind} {address[:_URI_SHOWN]}{'...' if len(address) > _URI_SHOWN else ''}]"
    return f"[{kind}, {len(_json(part)):,} characters]"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "? s"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:,.0f} s"


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S}Z"
