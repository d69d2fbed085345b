"""Putting one choice of a streamed answer together from its deltas.

Text is gathered in lists and joined once at the end: joining at every delta would copy a long
answer a million times.
"""

from __future__ import annotations

from typing import Any

from batchrun.core.reply.content import covers, is_part, says_anything
from batchrun.core.stream.tool_deltas import ToolCalls
from batchrun.core.stream.whole_messages import WholeMessages, merged
from batchrun.core.text.storable import json_text

JsonObject = dict[str, Any]

_REPLACED = frozenset("id type name role object format index expires_at".split())
"""Texts that are said again rather than continued."""
_SAID = ("reasoning_content", "reasoning", "refusal", "function_call", "audio")
"""Fields of a message, beside its content and tool calls, in which the model speaks."""
CONTRADICTING = "contradicting"
"""The field of a choice in the raw reply that has what deltas and message do not agree on."""


class Pieces(list[str]):
    """Text that is still arriving."""


class ChoiceDeltas:
    """One choice as far as it has come.

    ``content`` gathers the pieces of the answer's text; whoever has plain text for it may append
    there directly, as long as ``parts`` is None. ``finish`` is the last finish reason given.
    ``wholes`` has the messages that came beside deltas or in place of them.
    """

    __slots__ = (
        "_calls",
        "_empty",
        "_formal",
        "_logprobs",
        "_message",
        "_other",
        "content",
        "finish",
        "parts",
        "wholes",
    )

    def __init__(self) -> None:
        self.content = Pieces()
        self.parts: list[Any] | None = None
        """Content given as parts, in the shape that plain replies have it in."""
        self.finish: str | None = None
        self.wholes: WholeMessages | None = None
        self._formal = self._empty = False
        self._calls: ToolCalls | None = None
        self._message: JsonObject = {}
        self._logprobs: JsonObject | None = None
        self._other: JsonObject = {}

    @property
    def begun(self) -> bool:
        """Whether the model has said anything: text, reasoning, a refusal, a tool call."""
        return bool(self.content or self.parts or self._calls) or self._speaks_otherwise()

    def open(self) -> None:
        """Take the delta that opens the message: a role and empty content, which with nothing else
        beside it does not mean that the content is empty.
        """
        self._formal = True

    def add(self, delta: JsonObject) -> None:
        """Take one delta, whatever it holds."""
        calls = delta.get("tool_calls")
        if calls:
            if self._calls is None:
                self._calls = ToolCalls()
            for call in calls if isinstance(calls, list) else (calls,):
                if isinstance(call, dict):
                    self._calls.add(call)
        content = delta.get("content")
        if content is not None and content in ("", [], {}):
            if delta.get("role") and not any(
                value for key, value in delta.items() if key not in ("role", "content")
            ):
                self.open()
            else:
                self._empty = True
        elif content is not None:
            self._add_content(content)
        for key, value in delta.items():
            if key not in ("content", "tool_calls") and value is not None:
                _merge(self._message, key, value, depth=1)

    def add_message(self, message: JsonObject, *, final: bool) -> None:
        """Take a message. It may be the answer so far, all of the answer, or a delta by another
        name: see ``core.stream.whole_messages``. ``final`` says that its chunk is called a
        completion.
        """
        if self.wholes is None:
            self.wholes = WholeMessages()
        if self.content or self.parts or self._speaks():
            self.wholes.not_alone()
        for piece in self.wholes.take(message, final=final, told=self._told):
            self.add(piece)

    def add_logprobs(self, logprobs: JsonObject) -> None:
        """Take the log probabilities of one chunk: its lists go on with those before, unless a
        chunk with a message says them all again.
        """
        if self._logprobs is None or (self.wholes is not None and covers(logprobs, self._logprobs)):
            self._logprobs = {}
        for key, value in logprobs.items():
            if value is None:
                self._logprobs.setdefault(key, None)
            else:
                _merge(self._logprobs, key, value, depth=0)

    def note(self, key: str, value: object) -> None:
        """Take a field of the choice that has no meaning here; it is kept for the raw column."""
        if isinstance(value, list):
            _merge(self._other, key, value, depth=0)
        elif value is not None:
            self._other[key] = value

    def value(self, index: int) -> JsonObject:
        """The choice in the shape of a plain reply."""
        message, left = self._told(), None
        if self.wholes is not None:
            message, left = merged(message, self.wholes.last, final=self.wholes.final)
        choice: JsonObject = {
            "index": index,
            "message": message,
            "logprobs": None if self._logprobs is None else settled(self._logprobs),
            "finish_reason": self.finish,
        }
        for key, value in self._other.items():
            choice[key] = settled(value)
        if left:
            choice[CONTRADICTING] = left
        return choice

    def _told(self) -> JsonObject:
        """The message that the deltas make."""
        message: JsonObject = {"role": "assistant", "content": self._content()}
        for key, value in self._message.items():
            message[key] = settled(value)
        if self._calls:
            message["tool_calls"] = self._calls.values()
        return message

    def _content(self) -> object:
        if self.parts is not None:
            return settled(self.parts)
        if self.content:
            return "".join(self.content)
        return "" if self._empty or (self._formal and not self._speaks_otherwise()) else None

    def _speaks_otherwise(self) -> bool:
        """Whether anything is said outside of content, in deltas or in a message."""
        return self._speaks() or (self.wholes is not None and says_anything(self.wholes.last))

    def _speaks(self) -> bool:
        calls = self._calls.values() if self._calls else None
        return says_anything(calls) or any(says_anything(self._message.get(key)) for key in _SAID)

    def _add_content(self, content: object) -> None:
        """Take content of any kind, as ``core.reply.completion`` takes that of a plain reply."""
        if isinstance(content, list):
            self._add_parts(content)
        elif isinstance(content, dict) and is_part(content):
            self._add_parts([content])
        else:
            self._add_text(content if isinstance(content, str) else json_text(content))

    def _add_text(self, text: str) -> None:
        if self.parts is None:
            self.content.append(text)
        elif self.parts and isinstance(self.parts[-1], _TextPart):
            self.parts[-1].append(text)
        else:
            self.parts.append(_TextPart([text]))

    def _add_parts(self, parts: list[Any]) -> None:
        """Parts go on with text that came as text, and text parts with each other."""
        if self.parts is None:
            self.parts = [_TextPart(self.content)] if self.content else []
            self.content = Pieces()
        for part in parts:
            if (
                isinstance(part, dict)
                and part.get("type") == "text"
                and isinstance(part.get("text"), str)
                and len(part) == 2
            ):
                self._add_text(part["text"])
            else:
                self.parts.append(part)


class _TextPart(Pieces):
    """A text part of a content list."""


def _merge(into: JsonObject, key: str, value: Any, *, depth: int) -> None:
    """Put a delta's value to what came before under its key: texts and lists go on, objects do so
    key by key down to ``depth``, anything else takes the place of what was there.
    """
    before = into.get(key)
    if isinstance(value, str) and key not in _REPLACED:
        if not isinstance(before, Pieces):
            before = into[key] = Pieces()
        if value:
            before.append(value)
    elif isinstance(value, list) and isinstance(before, list):
        before += value
    elif value == "" and before:
        pass  # a name that is said again, emptied
    elif isinstance(value, dict) and depth > 0:
        held = into[key] = before if isinstance(before, dict) else {}
        for name, item in value.items():
            if item is not None:
                _merge(held, name, item, depth=depth - 1)
    else:
        into[key] = list(value) if isinstance(value, list) else value


def settled(value: Any, depth: int = 2) -> Any:
    """The value with its texts joined, as deep as ``_merge`` leaves pieces."""
    if isinstance(value, _TextPart):
        return {"type": "text", "text": "".join(value)}
    if isinstance(value, Pieces):
        return "".join(value)
    if depth > 0 and isinstance(value, dict):
        return {key: settled(item, depth - 1) for key, item in value.items()}
    if depth > 0 and isinstance(value, list):
        return [settled(item, depth - 1) for item in value]
    return value
